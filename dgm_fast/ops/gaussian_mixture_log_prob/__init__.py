"""Log-density of a mixture of diagonal Gaussians, a component at a time."""
