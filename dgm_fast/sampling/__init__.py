"""Samplers of autoregressive models; state goes in and comes out explicitly."""

from dgm_fast.sampling.naive import naive_sample

__all__ = ["naive_sample"]
