"""The revisit benchmark: what a memory finds, what it is worth under the same weights, and what other models make of it."""
