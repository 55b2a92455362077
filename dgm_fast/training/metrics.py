"""Likelihoods in nats and bits a value, and the two baselines that a model must beat."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from rich.table import Table
from torch import Tensor, nn

from dgm_fast.training.data import Dataset, SignalDataset, TextDataset
from dgm_fast.training.protocol import context_of, shape_rows
from dgm_fast.training.signal_baselines import histogram_of_samples_nats, linear_prediction_nats
from dgm_fast.training.text_baselines import histogram_of_tokens_nats, markov_nats

__all__ = [
    "baselines_nats",
    "bits_per_dim",
    "diagnostics",
    "histogram_per_pixel_nats",
    "independent_pixels_nats",
    "likelihood_table",
    "mean_nll_nats",
]


def bits_per_dim(nll_nats: float, dataset: Dataset) -> float:
    r"""Convert a negative log-likelihood in nats to bits per dimension.

    $$\mathrm{bpd} = \frac{\mathrm{nll}}{D \ln 2} \; [+ \log_2 \text{levels}]$$

    The bracket is for dequantized data only: there the likelihood is a density of values scaled to
    [0, 1), and the volume of one grey level, 1 / levels, adds log2(levels) bits: 8 for 8-bit data.
    A discrete likelihood (binary, categorical, discretized logistic) has no offset.

    References:
        Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016,
        section 3.1.

    Example:
        >>> from dgm_fast.training.data import load_digits
        >>> round(bits_per_dim(64 * math.log(2), load_digits("static")), 6)
        1.0
    """
    offset = math.log2(dataset.levels) if dataset.continuous else 0.0
    return nll_nats / (dataset.features * math.log(2)) + offset


@torch.no_grad()
def mean_nll_nats(
    model: nn.Module,
    rows: Tensor,
    labels: Tensor | None = None,
    *,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    quick: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, rows: None,
    **options: Any,
) -> float:
    """Compute the mean negative log-likelihood of (N, D) rows in evaluation mode, in nats.

    Sums in float64. With `world_size` > 1 every process takes its share and all get the same mean.

    Arguments:
        model: its `log_prob` may draw noise, as the bounds of latent variable models do.
        rows: (N, D).
        labels: (N,), read by class-conditional models.
        batch_size: rows at once.
        device: of the model.
        rank: of this process.
        world_size: processes.
        quick: ask for `validation_nats` where the model has it.
        seed: of the noise, the same at every call; torch's generators end as they began.
        progress: told the number of rows done and that of all its own, after each batch.
        options: of `log_prob`.
    """
    score = getattr(model, "validation_nats", None) if quick else None
    if score is None:

        def score(x: Tensor, context: Tensor | None) -> Tensor:
            return -model.log_prob(x, context, **options)

    device = torch.device(device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    mine = rows[rank::world_size]
    theirs = None if labels is None else labels[rank::world_size]
    was_training = model.training
    model.eval()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed + rank)
        for start in range(0, len(mine), batch_size):
            batch = slice(start, start + batch_size)
            x = shape_rows(mine[batch].to(device), model)
            context = context_of(model, None if theirs is None else theirs[batch].to(device))
            total += score(x, context).double().sum()
            progress(start + len(x), len(mine))
    model.train(was_training)

    if world_size > 1:
        dist.all_reduce(total)
    return total.item() / len(rows)


def diagnostics(
    model: nn.Module, rows: Tensor, labels: Tensor | None, device: torch.device
) -> dict[str, float]:
    """Return a model's figures beside the likelihood, of a thousand rows at most."""
    if not hasattr(model, "diagnostics"):
        return {}

    x = shape_rows(rows[:1000].to(device), model)
    context = context_of(model, None if labels is None else labels[:1000].to(device))
    return model.diagnostics(x, context)


def independent_pixels_nats(dataset: Dataset) -> float:
    r"""Compute the test NLL of independent pixels, one ink probability each, in nats.

    $$x_d \sim \mathrm{Binomial}(L - 1, p_d), \qquad
      p_d = \frac{1 + \sum_n x_{nd}}{2 + N (L - 1)}$$

    With L = 2 levels this is one Bernoulli per pixel. With more, a grey level is the number of
    inked ones among L - 1 sub-pixels, which is how scikit-learn's digits were made. Laplace
    smoothing keeps the figure finite.
    """
    train, test = _grey_levels(dataset)
    trials = dataset.levels - 1
    p = (1 + train.sum(0)) / (2 + len(train) * trials)
    log_choose = math.lgamma(trials + 1) - torch.lgamma(test + 1) - torch.lgamma(trials - test + 1)
    log_prob = log_choose + test * p.log() + (trials - test) * torch.log1p(-p)
    return _baseline_nll_nats(log_prob, dataset)


def histogram_per_pixel_nats(dataset: Dataset) -> float:
    r"""Compute the test NLL of independent pixels, one histogram of grey levels each, in nats.

    $$p(x_d = k) = \frac{1 + \#\{n : x_{nd} = k\}}{L + N}$$

    With L = 2 levels this equals :func:`independent_pixels_nats`.
    """
    train, test = _grey_levels(dataset)
    pixel = torch.arange(dataset.features) * dataset.levels
    size = dataset.features * dataset.levels
    counts = torch.bincount((train.long() + pixel).flatten(), minlength=size).double()
    log_p = ((1 + counts) / (dataset.levels + len(train))).log()
    return _baseline_nll_nats(log_p[test.long() + pixel], dataset)


def baselines_nats(dataset: Dataset) -> dict[str, float]:
    """Compute both baselines of images, signals or text: name to test NLL in nats."""
    if isinstance(dataset, TextDataset):
        order, nats = markov_nats(dataset)
        name = f"histogram of {dataset.unit}s"
        return {name: histogram_of_tokens_nats(dataset), f"Markov of order {order}": nats}
    baselines: dict[str, Callable[[Any], float]] = {
        "independent pixels": independent_pixels_nats,
        "histogram per pixel": histogram_per_pixel_nats,
    }
    if isinstance(dataset, SignalDataset):
        baselines = {
            "histogram of samples": histogram_of_samples_nats,
            "linear prediction": linear_prediction_nats,
        }
    return {name: baseline(dataset) for name, baseline in baselines.items()}


def likelihood_table(model_nats: dict[str, float], dataset: Dataset) -> Table:
    """Make a table of negative log-likelihoods, models first, then the two baselines."""
    table = Table(f"{dataset.name}, {dataset.view}")
    table.add_column("NLL, nats", justify="right")
    # Of text, the literature has both.
    of_text = isinstance(dataset, TextDataset)
    if of_text:
        table.add_column(f"nats/{dataset.unit}", justify="right")
    table.add_column(f"bits/{dataset.unit}", justify="right")
    for name, nats in {**model_nats, **baselines_nats(dataset)}.items():
        a_token = [f"{nats / dataset.features:.4f}"] if of_text else []
        table.add_row(name, f"{nats:.2f}", *a_token, f"{bits_per_dim(nats, dataset):.4f}")
    return table


def _grey_levels(dataset: Dataset) -> tuple[Tensor, Tensor]:
    rows = dataset.fixed_train(), dataset.test
    if dataset.continuous:
        rows = tuple((x * dataset.levels).floor() for x in rows)
    return tuple(x.double() for x in rows)


def _baseline_nll_nats(log_prob: Tensor, dataset: Dataset) -> float:
    nll = -log_prob.sum(1).mean().item()
    # A grey level's mass spread over its cell of width 1 / levels is a density levels times higher.
    return nll - dataset.features * math.log(dataset.levels) if dataset.continuous else nll
