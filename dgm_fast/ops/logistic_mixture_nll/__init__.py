"""Negative log-likelihood of images under a discretized mixture of logistics."""
