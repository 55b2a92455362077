"""The GPU's sweep through a masked network on threads of this CPU: how its program is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dgm_fast.sampling.masked_mlp import MaskedNetwork, Step
from dgm_fast.sampling.masked_mlp.packed import PackedSweep, pack_stretches
from tests.sampling.block_programs import noise_arrays, run


@dataclass(frozen=True)
class Blocks:
    """A sweep whose steps the program makes.

    Attributes:
        program: that `build` made of `masked_sweep_block.cpp`.
        network: that is swept through.
        step: what makes a feature.
        block: features of a stretch; default as on a GPU.
        samples: of a block.
        threads: of a block.
        warp: how many of its threads wait for one another at little cost.
        crew: how many threads make the steps of a sample.
        left_out: which of its waits a block leaves out, or -1.
        left_out_of_crew: which of its waits a crew leaves out, or -1.
        processors: how many a GPU would have, and how much memory their blocks share.
    """

    program: Path
    network: MaskedNetwork
    step: Step
    block: int | None = None
    samples: int = 2
    threads: int = 8
    warp: int = 2
    crew: int = 2
    left_out: int = -1
    left_out_of_crew: int = -1
    processors: tuple[int, int] = (132, 227 * 1024)

    def go_on(self, state, noise, end):
        """Return the state after steps up to `end`, and the program's plan."""
        plan = []

        def kernel(x, levels, log_det, context, weights, biases, starts, order, *rest):
            *noise, given, sizes, skips, activation, kind, constants, begin, end, keep = rest
            run_as = [self.samples, self.threads, self.warp, self.crew]
            arrays = [
                [*run_as, self.left_out, self.left_out_of_crew],
                self.processors,
                *(sizes, skips, [activation], kind, constants),
                [len(x), begin, end, keep],
                *(starts, order, *weights, biases, x, levels, log_det),
                torch.zeros(0) if context is None else context,
                *noise_arrays(*noise),
                torch.zeros(0, dtype=torch.bool) if given is None else given,
            ]
            *found, last = run(self.program, arrays)
            for old, new in zip((x, levels, log_det), found, strict=True):
                old.copy_(torch.tensor(new.view(np.float32)).view_as(old))
            plan.extend(last.view(np.int64).tolist())

        packed = pack_stretches(self.network, self.block)
        state = state.clone()
        PackedSweep(self.network, self.step.kernel, packed, kernel).go_on(state, noise, end)
        return state, plan

    def like(self, **changes):
        """Return one that differs."""
        return replace(self, **changes)
