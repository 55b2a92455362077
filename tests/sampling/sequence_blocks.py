"""The GPU's samplers of sequences on threads of this CPU: how their program is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dgm_fast.sampling import RecurrentSampler
from dgm_fast.sampling.panels import in_rows
from dgm_fast.sampling.recurrent import op as recurrent_op
from dgm_fast.sampling.recurrent.packed import PackedRecurrent
from dgm_fast.sampling.transformer import op as transformer_op
from dgm_fast.sampling.transformer.packed import PackedTransformer
from tests.sampling.block_programs import noise_arrays, run


@dataclass
class SequenceBlocks:
    """Calls of an operator that a program answers.

    Attributes:
        program: that `build` made.
        sequences: of a block.
        threads: of a block.
        left_out: which of its waits a block leaves out, or -1.
        together: whether several places of a transformer's sequence are fed at a time, which takes
            a multiple of eight threads.
        processors: how many a GPU would have, and how much memory their blocks share.
        plans: of each call the bytes that a sequence shares, and how many a block would draw.
    """

    program: Path
    sequences: int = 2
    threads: int = 4
    left_out: int = -1
    together: bool = False
    processors: tuple[int, int] = (132, 227 * 1024)
    plans: list[list[int]] = field(default_factory=list)

    def call(
        self,
        is_recurrent,
        states,
        parameters,
        inputs,
        given,
        noise,
        seed,
        of_seed,
        weights,
        sizes,
        number,
        *filters,
    ) -> torch.Tensor:
        """Move states and parameters on, and return the tokens, as the operator does."""
        temperature, top_k, top_p = filters
        of_noise = noise_arrays(noise, seed, of_seed)
        batch, steps = inputs.shape[0], of_noise[-1][2]
        arrays = [
            [self.sequences, self.threads, self.left_out],
            self.processors,
            [is_recurrent, number, self.together],
            sizes,
            [batch, steps, top_k, len(weights[0]), len(weights), len(states)],
            torch.tensor([temperature, top_p], dtype=torch.float64),
            inputs,
            torch.zeros(0, dtype=torch.int64) if given is None else given,
            *of_noise,
            torch.zeros(0) if parameters is None else parameters,
            *weights,
            *states,
        ]
        drawn, made, *after, plan = run(self.program, arrays)
        self.plans.append(plan.view(np.int64).tolist())
        kept = [*states] if parameters is None else [parameters, *states]
        for mine, found in zip(kept, after if parameters is None else [made, *after], strict=True):
            mine.copy_(torch.tensor(found.view(np.float32)).view_as(mine))
        return torch.tensor(drawn.view(np.int64)).view(batch, steps)


def on_blocks(model, monkeypatch, program, *options, **others):
    """A sampler of a model whose kernel a program is, and its calls."""
    sampler, blocks = model.sampler(impl="reference"), SequenceBlocks(program, *options, **others)
    is_recurrent = isinstance(sampler, RecurrentSampler)
    op = recurrent_op if is_recurrent else transformer_op
    monkeypatch.setitem(op.draw, "cuda", partial(blocks.call, is_recurrent))
    packed = PackedRecurrent if is_recurrent else PackedTransformer
    sampler.impl, sampler._packed = "cuda", packed(model.described().to(torch.float32), in_rows)
    return sampler, blocks
