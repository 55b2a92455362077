"""Samplers of autoregressive and diffusion models; state goes in and comes out explicitly."""

from dgm_fast.sampling.diffusion import ddim_encode, diffusion_sample
from dgm_fast.sampling.naive import naive_sample

__all__ = ["ddim_encode", "diffusion_sample", "naive_sample"]
