"""Invertible 1x1 convolutions: `y = W x` over channels, W full or by its PLU factors."""
