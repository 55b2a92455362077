"""The GPU's sampler of WaveNet on threads of this CPU: how its program is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dgm_fast.distributions import CategoricalWaveform
from dgm_fast.distributions.discretized_logistic import lowest_log_scale
from dgm_fast.sampling import WaveNetSampler
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.noise import noise_arguments
from dgm_fast.sampling.wavenet.packed import pack, pack_condition
from tests.sampling.block_programs import noise_arrays, run


@dataclass(frozen=True)
class Blocks:
    """A sampler whose steps the program makes; its states are those of a kernel.

    Attributes:
        program: that `build` made of `wavenet_block.cpp`.
        sampler: any of the same network.
        signals: of a block.
        threads: of a block.
        left_out: which of its waits a block leaves out, or -1.
        processors: how many a GPU would have, and how much memory their blocks share.
    """

    program: Path
    sampler: WaveNetSampler
    signals: int = 2
    threads: int = 8
    left_out: int = -1
    processors: tuple[int, int] = (132, 227 * 1024)

    def start(self, batch, context=None):
        """Return the state before the first sample."""
        state = self.sampler.start(batch, context)
        if self.sampler.impl != "reference":
            return state
        layers = len(self.sampler.network.layers)
        return replace(state, condition=pack_condition(state.condition, layers))

    def draw(self, state, *, noise=None, given=None, features=None, keep=True, **filters):
        """Return the levels, their parameters, the state after them, and the program's plan."""
        output, batch = self.sampler.output, state.batch
        steps = (noise if given is None else given).shape[1]
        packed, lowest = pack(self.sampler.network), lowest_log_scale(output.quantizer.levels)
        temperature, top_k, top_p = Filters(**filters).constants
        mixture = not isinstance(output, CategoricalWaveform)
        local = torch.zeros(0) if features is None else features.transpose(1, 2)
        levels = output.quantizer.levels
        arrays = [
            [self.signals, self.threads, self.left_out],
            self.processors,
            packed.sizes,
            [mixture, output.parameters, levels, top_k],
            torch.tensor([temperature, top_p, lowest]),
            [batch, steps, state.time, keep],
            packed.dilations,
            self._begins(packed),
            *packed.weights,
            state.rings,
            state.recent,
            state.condition,
            local,
            *noise_arrays(*noise_arguments(noise)),
            torch.zeros(0, dtype=torch.int64) if given is None else given,
        ]
        drawn, parameters, rings, recent, plan = run(self.program, arrays)
        after = replace(
            state,
            rings=torch.tensor(rings.view(np.float32)).view_as(state.rings),
            recent=torch.tensor(recent.view(np.int64)).view_as(state.recent),
            time=state.time + steps,
        )
        return (
            torch.tensor(drawn.view(np.int64)).view(batch, -1),
            torch.tensor(parameters.view(np.float32)).view(batch, -1, output.parameters),
            after,
            plan.view(np.int64).tolist(),
        )

    def _begins(self, packed):
        sizes = [(packed.sizes[2] - 1) * each * packed.sizes[0] for each in packed.dilations]
        return [sum(sizes[:place]) for place in range(len(sizes))]
