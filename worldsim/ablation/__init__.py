"""Variants of the model trained and judged under one budget."""
