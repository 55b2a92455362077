"""Noising of diffusion models: x_t and the training target from x0, in one pass."""
