"""Sampling steps of diffusion models: ancestral (DDPM) and implicit (DDIM), one pass each."""
