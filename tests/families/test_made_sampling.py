"""MADE's samples are those of the naive loop, with what is given, at every temperature."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from dgm_fast.families import MADE, MADEConfig
from dgm_fast.sampling import filter_logits, naive_sample, pick_token
from tests.sampling.filter_cases import FILTERS

PLAIN = MADEConfig(40, (50, 30), activation="tanh")
CONFIGS = {
    "plain": PLAIN,
    "logistic autoregression": replace(PLAIN, hidden=()),
    "order and context": replace(PLAIN, order="random", context_features=3),
    "random": replace(PLAIN, random_connectivity=True, order="random", direct=True),
    "residual": replace(PLAIN, hidden=(50, 30, 50, 41, 50), residual=True, order="random"),
    "categorical": replace(PLAIN, output="categorical", categories=7),
    "logistic": replace(PLAIN, output="logistic", categories=9),
}


def make(config):
    torch.manual_seed(0)
    model = MADE(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


@torch.no_grad()
def naive(model, noise, context=None, mask_set=0, temperature=1.0, pick=None, x=None, given=None):
    masks = model.mask_sets[mask_set]
    if pick is None:
        pick = partial(model.conditional.pick, temperature=temperature)
    return naive_sample(
        lambda x: model._network(x, context, masks),
        pick,
        noise,
        model.degrees[mask_set].generation_order,
        torch.zeros(noise.shape[:2]) if x is None else x,
        given=given,
    )


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_samples_are_those_of_the_naive_loop(config):
    model, noise = make(config), make(config).draw_noise(30)
    context = torch.randn(30, 3) if config.context_features else None
    for temperature in (0.0, 0.5, 1.0):
        x = model.sample(30, context, noise=noise, temperature=temperature)
        assert torch.equal(x, naive(model, noise, context, temperature=temperature))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_categories_are_left_out_as_their_logits_say(filters, temperature):
    model = make(CONFIGS["categorical"])
    noise, options = model.draw_noise(30), {"temperature": temperature} | filters
    x = model.sample(30, noise=noise, **options)
    sampler = model.sampler(**options)
    assert torch.equal(sampler.draw(sampler.start(30), noise), x)

    def pick(logits, noise):
        return pick_token(filter_logits(logits, **options), noise).float()

    assert torch.equal(x, naive(model, noise, pick=pick))


def test_each_sample_of_a_mixture_is_of_one_of_its_sets():
    model = make(replace(PLAIN, num_masks=3, order="random"))
    noise, told = model.draw_noise(30), []
    x = model.sample(30, noise=noise, progress=lambda *done: told.append(done))
    of_sets = torch.stack([naive(model, noise, mask_set=i) for i in range(3)])
    which = (of_sets == x).all(2)
    assert which.any(0).all()
    assert (which.sum(1) > 1).all()
    assert told == sorted(told)
    assert told[-1] == (120, 120)


def test_given_features_broadcast_and_stay():
    model = make(CONFIGS["order and context"])
    noise, context = model.draw_noise(6), torch.randn(3)
    given, mask = torch.ones(40), torch.arange(40) % 3 == 0
    x = model.sample((2, 3), context, noise=noise, given=given, given_mask=mask)
    assert x.shape == (2, 3, 40)
    assert (x[..., mask] == 1).all()
    start = torch.where(mask, given, 0.0).expand(6, 40)
    expected = naive(model, noise, context.expand(6, 3), x=start, given=mask.expand(6, 40))
    assert torch.equal(x.view(6, 40), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0; got -1.0"),
        ({"top_k": 0}, "top_k must be at least 1; got 0"),
        ({"top_p": 0.5}, "top_k and top_p .* BernoulliConditional: got None and 0.5"),
        ({"noise": torch.zeros(3, 40, 1)}, r"noise must have shape \(n, D, N\)"),
        ({"given": torch.zeros(40)}, "given_mask is None"),
        (
            {"given": torch.zeros(3), "given_mask": torch.ones(40) > 0},
            r"given must have dims that broadcast to shape = \(2, 40\); got \(3,\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(PLAIN).sample(2, **arguments)


def test_the_models_implementation_is_the_samplers():
    assert make(PLAIN).sampler(impl="reference").impl == "reference"
    assert MADE(PLAIN, impl="reference").sampler().impl == "reference"
    # Of the layers alone.
    assert MADE(PLAIN, impl="triton").sampler().impl == make(PLAIN).sampler().impl
