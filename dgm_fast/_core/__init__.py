"""Plumbing shared by every op; knows no op."""
