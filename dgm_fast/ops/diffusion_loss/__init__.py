"""Loss of diffusion models: the squared error against a target made from its seed."""
