"""What a model of text must beat: a histogram of tokens, and counts of what follows a few."""

from __future__ import annotations

import torch

from dgm_fast.families import Histogram, HistogramConfig, Markov, MarkovConfig
from dgm_fast.training.data import TextDataset

__all__ = ["HIGHEST_ORDER", "count_text", "histogram_of_tokens_nats", "markov_nats"]

HIGHEST_ORDER = 6


def count_text(model: Histogram | Markov, dataset: TextDataset) -> None:
    """Fit a model that counts to the training text: a histogram in segments, what else whole."""
    text, T = dataset.training_text(), dataset.features
    whole = text[: len(text) // T * T].view(-1, T)
    model.fit(whole if isinstance(model, Histogram) else text)


@torch.no_grad()
def histogram_of_tokens_nats(dataset: TextDataset) -> float:
    """Compute the test NLL of independent tokens with one histogram, in nats a segment."""
    config = HistogramConfig((dataset.features,), dataset.levels, shared=True)
    model = Histogram(config, dtype=torch.float64)
    count_text(model, dataset)
    return model.loss(dataset.test).item()


@torch.no_grad()
def markov_nats(dataset: TextDataset) -> tuple[int, float]:
    """Return the best order of a back-off Markov model and its test NLL in nats a segment.

    Orders 1 to 6 are fitted to the training text; the one that validates best is chosen.
    """
    best = None
    for order in range(1, HIGHEST_ORDER + 1):
        model = Markov(MarkovConfig(dataset.levels, order))
        count_text(model, dataset)
        nats = model.loss(dataset.validation).item()
        if best is None or nats < best[0]:
            best = nats, order, model
    _, order, model = best
    return order, model.loss(dataset.test).item()
