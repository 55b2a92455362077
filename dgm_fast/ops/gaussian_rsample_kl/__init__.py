"""Draw from a diagonal Gaussian and measure its divergence from another, in one pass."""
