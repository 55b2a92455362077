"""What a MADE may depend on: degrees, masks and the Jacobian they promise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from dgm_fast.families import MADE, MADEConfig
from dgm_fast.families.autoregressive.degrees import even_degrees
from dgm_fast.families.autoregressive.made_config import degrees_of

D, C = 6, 2
OUTPUTS = ["bernoulli", "categorical", "gaussian", "gaussian_mixture"]
BASE = MADEConfig(D, (12,), categories=4, components=3, activation="tanh")


def jacobian(function, *inputs):
    """d parameters / d input, summed in absolute value over the P parameters: (D, inputs)."""
    blocks = torch.autograd.functional.jacobian(function, inputs)
    return [block.abs().sum(1) for block in blocks]


def example(config):
    x = torch.rand(config.features)
    x = x * (config.categories - 1) if config.output == "categorical" else x
    return (x, torch.randn(C)) if config.context_features else (x,)


def check_dependencies(model, places):
    """Output d depends on input i exactly where i comes before d, and on all of the context."""
    before = places[:, None] > places[None, :]
    d_x, *d_context = jacobian(model, *example(model.config))

    assert torch.equal(d_x != 0, before)
    assert all(bool((block != 0).all()) for block in d_context)


@pytest.mark.parametrize("context_features", [0, C], ids=["", "context"])
@pytest.mark.parametrize(
    "hidden", [(), (12,), (12, 18, 13)], ids=["no hidden", "one hidden", "three hidden"]
)
@pytest.mark.parametrize("output", OUTPUTS)
def test_jacobian_of_outputs_and_depths(make_model, output, hidden, context_features, impl):
    config = replace(BASE, output=output, hidden=hidden, context_features=context_features)
    check_dependencies(make_model(config, impl=impl), torch.arange(1, D + 1))


@pytest.mark.parametrize("order", ["natural", "random"])
def test_jacobian_of_residual_networks(make_model, order, impl):
    hidden = (12, 9, 12, 14, 12)
    model = make_model(
        replace(BASE, output="gaussian", hidden=hidden, order=order, residual=True), impl=impl
    )
    check_dependencies(model, model.degrees[0].features)

    # A block whose last weights are zero passes on what went in.
    x = torch.randn(3, D)
    with torch.no_grad():
        for layer in (model.layers[2], model.layers[4]):
            layer.weight.zero_()
            layer.bias.zero_()
        first, last = model.layers[0], model.layers[-1]
        masks = list(model.mask_sets[0])
        h = model.activation(first(x, masks[0]))
        expected = last(h, masks[5]).unflatten(-1, (D, -1))
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("direct", [False, True], ids=["", "direct"])
@pytest.mark.parametrize("context_features", [0, C], ids=["", "context"])
@pytest.mark.parametrize("order", ["natural", "random", (3, 0, 5, 1, 4, 2)], ids=str)
def test_jacobian_of_orders(make_model, order, context_features, direct, impl):
    config = replace(
        BASE,
        hidden=(12, 15),
        output="gaussian",
        order=order,
        direct=direct,
        context_features=context_features,
    )
    model = make_model(config, impl=impl)

    places = model.degrees[0].features
    if order != "random":
        expected = range(D) if order == "natural" else order
        assert (places - 1).tolist() == list(expected)
    check_dependencies(model, places)


@pytest.mark.parametrize("order", ["natural", "random"])
def test_every_mask_set_keeps_its_own_order(make_model, order):
    config = replace(BASE, hidden=(40, 40), order=order, num_masks=4, random_connectivity=True)
    model = make_model(config)

    for mask_set, degrees in enumerate(model.degrees):
        model.training_step_begin(mask_set)
        # Random degrees may miss a path, so what follows is what the degrees allow.
        inputs, (first, second), outputs = degrees.features, degrees.hidden, degrees.features
        paths = (outputs[:, None] > second).int()
        paths = paths @ (second[:, None] >= first).int() @ (first[:, None] >= inputs).int()
        assert not bool((paths > 0)[inputs[:, None] <= inputs].any())

        (d_x,) = jacobian(model, *example(config))
        assert torch.equal(d_x != 0, paths > 0)


def test_mask_sets_differ_in_what_is_random():
    orders = MADE(replace(BASE, order="random", num_masks=3))
    assert len({tuple(d.generation_order) for d in orders.degrees}) == 3
    assert len({tuple(d.hidden[0].tolist()) for d in orders.degrees}) == 1

    wirings = MADE(replace(BASE, random_connectivity=True, num_masks=3))
    assert len({tuple(d.generation_order) for d in wirings.degrees}) == 1
    assert len({tuple(d.hidden[0].tolist()) for d in wirings.degrees}) == 3


def test_masks_depend_on_the_configuration_alone():
    config = replace(BASE, order="random", num_masks=3, random_connectivity=True, seed=5)
    torch.manual_seed(0)
    first = MADE(config)
    torch.manual_seed(1)
    second = MADE(config)
    other = MADE(replace(config, seed=6))

    def masks(model):
        return [layer.mask for masks in model.mask_sets for layer in masks]

    assert all(torch.equal(a, b) for a, b in zip(masks(first), masks(second), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(masks(first), masks(other), strict=True))


def test_equal_masks_are_shared_between_sets():
    model = MADE(replace(BASE, hidden=(12, 12), order="random", num_masks=3))

    first, second, third = model.mask_sets
    assert first[1] is second[1] is third[1]
    assert len({id(masks[0]) for masks in model.mask_sets}) == 3


@pytest.mark.parametrize("order", ["natural", "random"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_masks_are_staircases_of_sorted_hidden_units(output, order):
    config = replace(BASE, output=output, hidden=(17, 9), order=order, context_features=C)
    first, middle, last = MADE(config).mask_sets[0]

    assert first.is_staircase
    assert middle.is_staircase
    assert last.is_staircase
    # Hidden units never need reordering; only the two ends do, where the order is not natural.
    assert first.row_order is middle.row_order is None
    assert middle.column_order is last.column_order is None
    assert (last.row_order is None) == (order == "natural")


@pytest.mark.parametrize("units", [1, 3, 7, 8, 100])
@pytest.mark.parametrize(("low", "high"), [(1, 7), (0, 7), (0, 0)])
def test_even_degrees_cover_the_range(units, low, high):
    degrees = even_degrees(units, low, high)
    counts = torch.bincount(degrees - low, minlength=high - low + 1)

    assert degrees.shape == (units,)
    assert torch.equal(degrees, degrees.sort().values)
    assert degrees.min() >= low
    assert degrees.max() == high
    assert counts.max() - counts.min() <= 1


def test_random_degrees_never_fall_below_the_layer_before():
    config = MADEConfig(50, (3, 200, 200), random_connectivity=True, num_masks=5, order="random")

    for mask_set in range(config.num_masks):
        hidden = degrees_of(config, mask_set).hidden
        assert int(hidden[0].min()) >= 1
        for below, above in pairwise(hidden):
            assert int(above.min()) >= int(below.min())
            assert int(above.max()) <= 49


@pytest.mark.parametrize("output", OUTPUTS)
def test_one_feature_depends_on_the_context_alone(make_model, output):
    config = replace(BASE, features=1, output=output, context_features=C, direct=True)
    d_x, d_context = jacobian(make_model(config), *example(config))
    assert not bool(d_x.any())
    assert bool((d_context != 0).all())

    alone = make_model(replace(config, context_features=0))
    x = example(alone.config)[0]
    assert torch.equal(alone(x), alone(torch.zeros_like(x)))


def test_fewer_hidden_units_than_features(make_model):
    model = make_model(replace(BASE, features=20, hidden=(3,)))
    (d_x,) = jacobian(model, torch.rand(20))

    assert not bool(d_x.triu().any())
    # The last unit has the highest degree, so no feature but the last is ignored.
    assert bool((d_x[-1, :-1] != 0).all())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"features": 0}, "features must be at least 1; got 0"),
        ({"hidden": (5, 0)}, r"hidden must hold positive widths; got \(5, 0\)"),
        ({"output": "poisson"}, "output must be one of bernoulli.*'poisson'"),
        ({"categories": 1}, "categories must be at least 2"),
        ({"components": 0}, "components must be at least 1"),
        ({"context_features": -1}, "context_features must be at least 0"),
        ({"order": "reversed"}, "order must be .*'reversed'"),
        ({"order": (0, 0, 1, 2, 3, 4)}, r"order must be .*permutation of 0\.\.5; got \(0, 0"),
        ({"num_masks": 0}, "num_masks must be at least 1"),
        ({"num_masks": 2}, "num_masks=2 needs order='random' or random_connectivity"),
        ({"hidden": (), "direct": True}, "direct needs hidden units"),
        ({"hidden": (), "random_connectivity": True}, "random_connectivity needs hidden units"),
        ({"hidden": (5,), "residual": True}, r"residual needs hidden to be .*; got \(5,\)"),
        ({"hidden": (5, 5, 6), "residual": True}, r"residual needs hidden to be .*\(5, 5, 6\)"),
        ({"hidden": (5,) * 4, "residual": True}, r"residual needs hidden to be .*\(5, 5, 5, 5\)"),
        (
            {"hidden": (5,) * 3, "residual": True, "random_connectivity": True},
            "residual needs random_connectivity=False",
        ),
        ({"activation": "step"}, "activation must be one of relu.*'step'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_configuration_errors(changes, match):
    with pytest.raises(ValueError, match=match):
        replace(BASE, **changes)
