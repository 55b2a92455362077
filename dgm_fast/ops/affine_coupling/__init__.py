"""Affine and additive coupling, forward and inverse, with log-determinants per sample."""
