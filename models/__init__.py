"""Networks of the world model: autoencoder, FramePack schedule and packer, transformer, flow objective and sampler."""
