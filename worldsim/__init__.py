"""WorldSim: worlds that a video diffusion model makes up as one walks, kept whole by its memory."""
