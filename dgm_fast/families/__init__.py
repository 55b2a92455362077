"""Readable model definitions, one file a model."""
