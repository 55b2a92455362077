"""The benchmark of samplers, a file a kind of model."""
