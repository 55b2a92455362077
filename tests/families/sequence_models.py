"""Small models of token sequences, one of every kind."""

from __future__ import annotations

import torch

from dgm_fast.families import (
    RNN,
    Markov,
    MarkovConfig,
    MarkovMLP,
    MarkovMLPConfig,
    RNNConfig,
    Transformer,
    TransformerConfig,
)

V, LENGTH = 3, 9


def transformer(**changes):
    sizes = {"vocabulary": V, "length": LENGTH, "layers": 2, "heads": 2, "width": 8}
    return TransformerConfig(**(sizes | changes))


def rnn(**changes):
    return RNNConfig(**({"vocabulary": V, "width": 6} | changes))


# A kind of every cell, position and condition.
VARIANTS = {
    "transformer": transformer(),
    "transformer, rotary": transformer(positions="rotary", tied=False, heads=1),
    "transformer, labels": transformer(classes=2, width=12, layers=1, dropout=0.2),
    "gru": rnn(),
    "gru, tied": rnn(layers=2, tied=True, classes=2, dropout=0.2),
    "lstm": rnn(cell="lstm", layers=2, embedding=4),
    "markov_mlp": MarkovMLPConfig(vocabulary=V, order=3, embedding=4, hidden=8, layers=2),
    "markov, additive": MarkovConfig(vocabulary=V, order=2, smoothing="additive", alpha=0.3),
    "markov, backoff": MarkovConfig(vocabulary=V, order=3),
}
NEURAL = {name: config for name, config in VARIANTS.items() if not name.startswith("markov,")}
KINDS = {each.config_class: each for each in (RNN, Markov, MarkovMLP, Transformer)}


def make_model(config, seed=0, **options):
    """A model away from its near-uniform start, in evaluation mode."""
    torch.manual_seed(seed)
    model = KINDS[type(config)](config, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if isinstance(model, Transformer) else 0.8
            # Gains stay about one.
            parameter.normal_(mean=float("norm" in name), std=0.3 if "norm" in name else scale)
    if isinstance(model, Markov):
        model.fit(torch.randint(config.vocabulary, (4, 12)))
    return model.eval()


def tokens(batch, length, seed=1, vocabulary=V):
    """Random tokens (B, T)."""
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def labels(config, batch):
    """A label of each sequence, or None."""
    classes = getattr(config, "classes", 0)
    return torch.arange(batch) % classes if classes else None
