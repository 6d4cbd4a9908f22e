"""Training of the autoencoder, the descriptor and the world model, on one device or under torchrun."""
