"""The GPU's sampler of PixelCNNs on threads of this CPU: how its program is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dgm_fast.distributions import BernoulliPixels, CategoricalPixels
from dgm_fast.distributions.discretized_logistic import lowest_log_scale
from dgm_fast.sampling import PixelNetwork
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.noise import noise_arguments
from dgm_fast.sampling.pixelcnn.packed import pack
from dgm_fast.sampling.pixelcnn.plan import make_plan
from tests.sampling.block_programs import noise_arrays, run

DISTRIBUTIONS = [BernoulliPixels, CategoricalPixels]


@dataclass(frozen=True)
class Blocks:
    """A sampler whose rows the program draws.

    Attributes:
        program: that `build` made of `pixel_block.cpp`.
        network: any of its samplers' states are a block's.
        images: of a block.
        threads: of a block.
        left_out: which of its waits a block leaves out, or -1.
        processors: how many a GPU would have, and how much memory their blocks share.
    """

    program: Path
    network: PixelNetwork
    images: int = 2
    threads: int = 8
    left_out: int = -1
    processors: tuple[int, int] = (132, 227 * 1024)

    @cached_property
    def packed(self):
        return pack(make_plan(self.network, torch.float32))

    def draw(self, state, rows=None, *, parameters_out=None, **filters):
        """Move the state on as `PixelSampler.draw` does; return it, and the program's plan."""
        output, (height, width) = self.network.output, self.network.size
        each = output.parameters // output.ordered_channels
        kind = next((i for i, k in enumerate(DISTRIBUTIONS) if isinstance(output, k)), 2)
        done = int(state.done)
        temperature, top_k, top_p = Filters(**filters).constants
        last = height if rows is None else min(height, done + rows)
        keep, lowest = parameters_out is not None, lowest_log_scale(output.levels)
        drawn = [kind, each, output.values_at_once, output.levels]
        shape = [state.batch, height, width, output.ordered_channels, done, last, keep]
        arrays = [
            [self.images, self.threads, self.left_out],
            self.processors,
            self.packed.sizes,
            [*drawn, self.network.ones, top_k],
            torch.tensor([temperature, top_p, lowest]),
            shape,
            self.packed.places,
            self.packed.works,
            self.packed.taps,
            self.packed.weights,
            state.condition.expand(state.batch, -1),
            state.images,
            state.rows,
            *noise_arrays(*noise_arguments(state.noise)),
            state.given,
        ]
        images, kept, parameters, plan = run(self.program, arrays)
        if keep:
            features = slice(*(row * width * output.ordered_channels for row in (done, last)))
            found = torch.tensor(parameters.view(np.float32)).view(parameters_out.shape)
            parameters_out[:, features] = found[:, features]
        after = replace(
            state,
            images=torch.tensor(images.view(np.float32)).view_as(state.images),
            rows=torch.tensor(kept.view(np.float32)).view_as(state.rows),
            done=torch.tensor(last),
        )
        return after, plan.view(np.int64).tolist()
