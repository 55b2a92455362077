"""A scale and a shift a channel, with the log-determinant, forward and inverse."""
