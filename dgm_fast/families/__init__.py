"""Readable model definitions, one file a model."""

from dgm_fast.families.autoregressive import MADE, MADEConfig
from dgm_fast.families.pretrained import Pretrained, family_of

__all__ = ["FAMILIES", "MADE", "MADEConfig", "Pretrained", "family_of"]

FAMILIES: dict[str, type[Pretrained]] = {MADE.family: MADE}
