"""Fast deep generative models: fused kernels under readable PyTorch definitions."""

from __future__ import annotations

from dgm_fast._core.implementation import ImplementationUnavailable, use_impl

__all__ = ["ImplementationUnavailable", "use_impl"]

__version__ = "0.1.0"
