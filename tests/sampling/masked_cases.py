"""Masked networks of all kinds, steps, and what a pass of the network a feature draws."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from dgm_fast.distributions import (
    BernoulliConditional,
    CategoricalConditional,
    DiscretizedLogisticConditional,
    GaussianConditional,
    GaussianMixtureConditional,
)
from dgm_fast.sampling import (
    AffineInverse,
    Draw,
    MaskedLayout,
    MaskedNetwork,
    SplineInverse,
    filter_logits,
    naive_sample,
    pick_token,
)


@dataclass(frozen=True)
class Shape:
    """Of a network; hidden degrees are drawn, unsorted, up to `unseen` more than features see."""

    features: int = 37
    hidden: tuple[int, ...] = (50, 31)
    context: int = 0
    shuffled: bool = False
    direct: bool = False
    activation: str = "relu"
    skips: tuple[int, ...] = ()
    unseen: int = 0


SHAPES = {
    "two layers": Shape(),
    "no hidden": Shape(hidden=()),
    "one feature": Shape(features=1, hidden=(5,), context=2),
    "one feature alone": Shape(features=1, hidden=()),
    "narrow": Shape(hidden=(3, 2, 1)),
    # Several vectors of units a step, and a product of more than one chunk of inputs.
    "wide": Shape(features=9, hidden=(300, 170)),
    "deep": Shape(hidden=(40, 40, 40), shuffled=True, activation="tanh"),
    "context": Shape(context=3, shuffled=True),
    "context of no hidden": Shape(hidden=(), context=3),
    "direct": Shape(hidden=(30,), context=2, direct=True, shuffled=True),
    "residual": Shape(hidden=(40,) * 5, context=2, skips=(0, 0, 1, 0, 3), activation="elu"),
    # Of more features than a block, and units as many.
    "long": Shape(features=101, hidden=(101,), shuffled=True),
    "unseen": Shape(hidden=(50, 31, 40), unseen=9),
}
FEW = ("context", "direct", "residual", "wide", "unseen")
each_of_few = pytest.mark.parametrize("shape", [SHAPES[name] for name in FEW], ids=FEW)
CONDITIONALS = {
    "bernoulli": BernoulliConditional(),
    "categorical": CategoricalConditional(11),
    "logistic": DiscretizedLogisticConditional(16),
    "gaussian": GaussianConditional(),
    "gaussian_mixture": GaussianMixtureConditional(3),
}
FLOWS = {
    "standardizing": AffineInverse(2.0),
    "affine": AffineInverse(2.0, standardize=False),
    "spline": SplineInverse(5, 3.0),
    "spline of 8": SplineInverse(8, 3.0),
}
STEPS = {name: Draw(each) for name, each in CONDITIONALS.items()} | FLOWS
STEPS["filtered"] = Draw(CONDITIONALS["categorical"], top_k=5, top_p=0.7)
# All shapes with two steps, and all steps with two shapes.
CASES = {
    f"{shape}-{step}": (SHAPES[shape], STEPS[step])
    for shape in SHAPES
    for step in STEPS
    if step in ("categorical", "standardizing") or shape in ("context", "direct")
}
each_case = pytest.mark.parametrize(("shape", "step"), CASES.values(), ids=CASES)


def make_network(shape, parameters, seed=0):
    """A network, and a function that evaluates it by masks of its degrees, in float64."""
    generator = torch.Generator().manual_seed(seed)
    D, C = shape.features, shape.context
    places = torch.arange(1, D + 1)
    if shape.shuffled:
        places = places[torch.randperm(D, generator=generator)]
    low, high = (0 if C or D == 1 else 1), max(D - 1, 0 if C or D == 1 else 1) + shape.unseen
    degrees = [torch.randint(low, high + 1, (H,), generator=generator) for H in shape.hidden]
    for level, skip in enumerate(shape.skips):
        degrees[level] = degrees[0] if skip or level == 0 else degrees[level]
    layout = MaskedLayout(places, degrees, parameters, C)

    units = [torch.cat([places, torch.zeros(C)]), *degrees, places.repeat_interleave(parameters)]
    edges = [(a, b, False) for a, b in pairwise(units[:-1])]
    edges += [(units[-2], units[-1], True)] + [(units[0], units[-1], True)] * shape.direct
    masks = [(b[:, None] > a if s else b[:, None] >= a) for a, b, s in edges]
    weights = [
        torch.randn(mask.shape, generator=generator) / mask.sum(1, keepdim=True).clamp(min=1).sqrt()
        for mask in masks
    ]
    # Features that depend on each other, but do not run away.
    weights[-1 - shape.direct :] = [0.2 * weight for weight in weights[-1 - shape.direct :]]
    biases = [0.3 * torch.randn(len(u), generator=generator) for u in units[1:]]
    direct = weights.pop() if shape.direct else None
    network = MaskedNetwork(
        layout,
        tuple(weights),
        (None, *biases[1:]) if shape.hidden else tuple(biases),
        shape.activation,
        direct,
        shape.skips,
    )

    def evaluate(x, context, held=None):
        h = inputs = x if context is None else torch.cat([x, context.double()], dim=1)
        sums = [None]
        for level, (weight, mask) in enumerate(zip(weights, masks, strict=False)):
            bias = network.biases[level]
            z = F.linear(h, (weight * mask).double(), None if bias is None else bias.double())
            if level == len(weights) - 1:
                break
            if shape.skips and shape.skips[level]:
                z = z + sums[shape.skips[level]]
            sums.append(z)
            h = getattr(F, shape.activation)(z)
            if held is not None:
                held.append(h.detach())
        if direct is not None:
            z = z + F.linear(inputs, (direct * masks[-1]).double())
        return z.unflatten(1, (D, parameters))

    return network, evaluate


def moved(network, *where):
    """The same network on a device, or in a dtype."""

    def move(tensors):
        return tuple(None if each is None else each.to(*where) for each in tensors)

    direct = None if network.direct is None else network.direct.to(*where)
    weights, biases = move(network.weights), move(network.biases)
    return replace(network, weights=weights, biases=biases, direct=direct)


def make_noise(step, batch, features, seed=0):
    torch.manual_seed(seed)
    if step.is_flow:
        return torch.randn(batch, features, 1)
    return step.conditional.draw_noise(batch, features, torch.tensor(seed), torch.float32)


def make_context(shape, batch, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, shape.context, generator=generator) if shape.context else None


def make_system(shape, parameters, batch, seed=0):
    """A network of ReLUs, what `solve_transposed` takes, and J^T of it, in float64."""
    network, evaluate = make_network(replace(shape, activation="relu"), parameters, seed)
    context, size = make_context(shape, batch), (batch, shape.features)
    generator = torch.Generator().manual_seed(seed)
    x, grad, by_parameters = (
        torch.randn(*each, generator=generator) for each in (size, size, (*size, parameters))
    )
    slopes, held = 0.5 + torch.rand(size, generator=generator), []
    by_parameters /= parameters**0.5
    evaluate(x.double(), context, held)

    def transposed(w):
        at = x.double().requires_grad_()
        weighted = evaluate(at, context) * (w.double()[..., None] * by_parameters)
        # No hidden unit may be before the only feature.
        (back,) = torch.autograd.grad(weighted.sum(), at, materialize_grads=True)
        return slopes * w + back

    return network, (grad, slopes, by_parameters, [each.float() for each in held]), transposed


def assert_solved(w, system, transposed):
    """Hold w to what rounding to float32 leaves, in terms of the largest of its sample."""
    error = (transposed(w) - system[0]).abs()
    assert (error <= 2e-6 * (w.abs().amax(1, keepdim=True) + system[0].abs())).all()


@torch.no_grad()
def naive(network, evaluate, step, noise, context, **given):
    """By a pass of the network a feature, in float64."""
    return naive_sample(
        lambda x: evaluate(step.encode(x), context),
        lambda parameters, noise: step.make(parameters[:, None], noise[:, None])[0][:, 0],
        noise.double(),
        network.layout.order.tolist(),
        given.pop("x", torch.zeros(noise.shape[:2])).double(),
        **given,
    )


def assert_same(found, expected, step):
    if not step.is_flow and isinstance(
        step.conditional,
        BernoulliConditional | CategoricalConditional | DiscretizedLogisticConditional,
    ):
        assert torch.equal(found.double(), expected)
    else:
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def naive_of_filters(network, evaluate, noise, **filters):
    """Of categories, by a pass of the network a feature in float64 and `filter_logits`."""
    encode = CategoricalConditional(network.layout.parameters).encode
    return naive_sample(
        lambda x: evaluate(encode(x), None),
        lambda logits, noise: pick_token(filter_logits(logits, **filters), noise).double(),
        noise.double(),
        network.layout.order.tolist(),
        torch.zeros(noise.shape[:2], dtype=torch.float64),
    )


# Logits, filters, and the categories that may be drawn.
TIES = [0.0, -1.0, 0.0, -1.0, -2.0, -math.inf]
LEFT = {
    "one and its equal": (TIES, {"top_k": 1}, {0, 2}),
    "three and an equal": (TIES, {"top_k": 3}, {0, 1, 2, 3}),
    "all of some probability": (TIES, {"top_k": 100}, {0, 1, 2, 3, 4}),
    "next to no probability": (TIES, {"top_p": 1e-300}, {0, 2}),
    "a nucleus and an equal": (TIES, {"top_p": 0.75}, {0, 1, 2, 3}),
    # Of all five the two are 0.70, of the four that are left 0.73.
    "the nucleus of what is left": (TIES, {"top_k": 3, "top_p": 0.72}, {0, 2}),
    "what is no number": ([0.0, math.nan, 1.0], {"top_k": 2, "top_p": 0.5}, {0}),
    "what is too large": ([0.0, 1.0, math.inf], {"top_k": 2, "top_p": 0.5}, {0}),
    "nothing at all": ([-math.inf] * 3, {"top_k": 2, "top_p": 0.5}, {0}),
}
each_left = pytest.mark.parametrize(("logits", "filters", "wanted"), LEFT.values(), ids=LEFT)


def work_of_logits(logits, filters):
    """A step, and a network of two features that both have these logits."""
    step = Draw(CategoricalConditional(len(logits)), **filters)
    weight = torch.zeros(2 * len(logits), 2)
    layout = MaskedLayout(torch.tensor([1, 2]), [], len(logits))
    return step, MaskedNetwork(layout, (weight,), (torch.tensor(logits * 2),))
