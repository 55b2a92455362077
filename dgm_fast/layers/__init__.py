"""nn.Modules over the ops; each has the state_dict of the torch layer it replaces."""

from dgm_fast.layers.masked_linear import MaskedLinear

__all__ = ["MaskedLinear"]
