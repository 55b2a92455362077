"""What noise stands for, by the arithmetic of the samplers' kernels."""

from __future__ import annotations

from dgm_fast.distributions import CategoricalPixels, CategoricalWaveform


def picked(output, parameters, noise):
    """The levels that noise (B, N) stands for under parameters (B, P).

    Kernels sum a softmax in float64, and so does this: sums in float32 move borders between
    hundreds of levels so far that a uniform of thousands falls to the other side. Of logistics and
    of a single logit, kernels compute in float32 what PyTorch does.
    """
    if isinstance(output, CategoricalPixels | CategoricalWaveform):
        levels = output.pick(parameters.double(), noise.double())
        return levels.to(noise.dtype) if levels.is_floating_point() else levels
    return output.pick(parameters, noise)
