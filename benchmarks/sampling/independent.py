"""What all values of a batch cost, drawn from a histogram: entries of `sampling`.

A step of these cases is a whole batch. `eager` draws one value after another, as of other models;
`compile_*` compiles the draw of all at once, which in plain PyTorch is ours, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.columns import COMPILE_MODES, OURS
from benchmarks.sampling.case import BATCHES, SEED, Case, Draws, make_columns
from dgm_fast.families import Histogram, HistogramConfig
from dgm_fast.sampling import naive_sample, pick_token

__all__ = ["CASES", "histogram_case"]

MODELS = {"histogram-28x28x256": HistogramConfig((28, 28))}


def histogram_case(
    config: HistogramConfig,
    batch: int,
    device: torch.device,
    wanted: tuple[str, ...],
    name: str,
) -> Case:
    """Return what is timed of a histogram, whose step is a whole batch."""
    torch.manual_seed(SEED)
    torch._dynamo.reset()
    model = Histogram(config, device=device)
    with torch.no_grad():
        model.logits.normal_()
    features = len(model.logits)

    @torch.no_grad()
    def naive(noise: Tensor) -> Tensor:
        x = torch.zeros(len(noise), features, dtype=torch.int64, device=device)
        return naive_sample(model, pick_token, noise, range(features), x)

    @torch.no_grad()
    def at_once(logits: Tensor, noise: Tensor) -> Tensor:
        rows = logits.expand(len(noise), -1, -1).flatten(0, 1)
        return pick_token(rows, noise.flatten(0, 1)).view(len(noise), -1)

    def compiled(mode: str | None) -> Draws:
        call = torch.compile(at_once, dynamic=False, mode=mode)
        return Draws(partial(call, model.logits), lambda: None, 1)

    def ours() -> Draws:
        draw = lambda noise: model.sample(len(noise), noise=noise).flatten(1)  # noqa: E731
        return Draws(draw, lambda: None, 1)

    makers: dict[str, Callable[[], Draws]] = {
        "eager": lambda: Draws(naive, lambda: None, 1),
        **{column: partial(compiled, mode) for column, mode in COMPILE_MODES.items()},
        f"{OURS}auto": ours,
    }
    columns = make_columns(makers, wanted, name)
    x = model.sample(batch)
    density = partial(torch.no_grad()(model.log_prob), x)
    return Case(name, columns, lambda steps: model.draw_noise(batch), density, 1, at_once=True)


CASES: dict[str, Callable[..., Case]] = {
    f"{name}-batch{batch}": partial(histogram_case, config, batch)
    for name, config in MODELS.items()
    for batch in BATCHES
}
