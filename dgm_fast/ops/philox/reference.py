"""The Philox numbers in plain PyTorch, which other ops' references draw too."""

from dgm_fast._core.philox import philox, philox4x32, philox_words

__all__ = ["philox", "philox4x32", "philox_words"]
