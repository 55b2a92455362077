"""Models that factor a density into one conditional a feature."""

from dgm_fast.families.autoregressive.made import MADE, MADEConfig

__all__ = ["MADE", "MADEConfig"]
