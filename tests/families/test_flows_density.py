"""Every flow is invertible, has the right log-determinant, integrates to one and samples alike."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dgm_fast.families import NICE, Glow, GlowConfig, NICEConfig, RealNVP, RealNVPConfig
from dgm_fast.families.flows.chain import Chain, Inverse
from dgm_fast.families.flows.multiscale import MultiScale, Squeeze
from dgm_fast.layers import ActNorm

IMAGE = {"event_shape": (1, 4, 4), "hidden": 6, "blocks": 1}

MODELS = {
    "nice": (NICE, NICEConfig((5,), hidden=(16, 16))),
    "nice image": (NICE, NICEConfig((1, 3, 3), levels=4, hidden=(16,), couplings=3)),
    "nice context": (NICE, NICEConfig((4,), hidden=(16,), context_features=3)),
    "realnvp vector": (RealNVP, RealNVPConfig((5,), couplings=4, hidden=16)),
    "realnvp unit": (RealNVP, RealNVPConfig((4,), logit_alpha=0.05, hidden=16)),
    "realnvp image": (RealNVP, RealNVPConfig(**IMAGE, levels=8, logit_alpha=0.05)),
    "realnvp three scales": (RealNVP, RealNVPConfig(**IMAGE, scales=3, couplings=1)),
    "realnvp squeezed": (RealNVP, RealNVPConfig(**IMAGE, squeezed=True, base="logistic")),
    "realnvp color": (RealNVP, RealNVPConfig((3, 4, 6), hidden=6, blocks=1, levels=5)),
    "realnvp classes": (
        RealNVP,
        RealNVPConfig(**IMAGE, levels=8, classes=3, context_features=4),
    ),
    "realnvp variational": (
        RealNVP,
        RealNVPConfig(**IMAGE, levels=8, dequantization="variational", dequantization_hidden=6),
    ),
}
SMALL = {"event_shape": (1, 4, 4), "steps": 2, "hidden": 6}
MODELS |= {
    "glow": (Glow, GlowConfig(**SMALL)),
    "glow full weight": (Glow, GlowConfig((2, 4, 2), steps=2, hidden=6, scales=1, plu=False)),
    "glow additive": (Glow, GlowConfig(**SMALL, levels=8, additive=True, logit_alpha=0.05)),
    "glow classes": (Glow, GlowConfig(**SMALL, levels=8, classes=3, context_features=4)),
    "glow prior of a class": (
        Glow,
        GlowConfig(**SMALL, context_features=4, conditional_couplings=False),
    ),
    "glow variational": (
        Glow,
        GlowConfig(**SMALL, levels=8, dequantization="variational", dequantization_hidden=6),
    ),
}
# Of these the density is of the features below, real values.
PLANE = {
    "nice": (NICE, NICEConfig((2,), hidden=(16, 16))),
    "nice normal": (NICE, NICEConfig((2,), hidden=(16,), base="normal")),
    "realnvp": (RealNVP, RealNVPConfig((2,), couplings=4, hidden=16)),
}


def make_model(model_class, config, seed=0, std=0.2, **options):
    """A model in double precision, away from the identity that it begins as."""
    torch.manual_seed(seed)
    model = model_class(config, **options).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return model


def context_for(model, B):
    config = model.config
    if config.classes:
        return torch.arange(B) % config.classes
    return torch.randn(B, config.context_features).double() if config.context_features else None


def events(model, B):
    """Real events inside the support."""
    config = model.config
    u = torch.rand(B, *config.event_shape, dtype=torch.float64)
    if config.levels is not None or config.logit_alpha:
        return (0.05 + 0.9 * u) * (config.levels or 1)
    return 4 * u - 2


@pytest.mark.parametrize("name", MODELS)
def test_inverse_of_forward(name):
    model = make_model(*MODELS[name])
    x, context = events(model, 6), context_for(model, 6)

    z, log_det = model(x, context)
    again, back = model.inverse(z, context)

    assert z.shape == x.shape
    assert not torch.allclose(z, x, atol=1e-3)
    torch.testing.assert_close(again, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back, -log_det, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_log_det_is_that_of_the_jacobian(name):
    model = make_model(*MODELS[name])
    x, context = events(model, 2), context_for(model, 2)
    D = math.prod(model.event_shape)

    _, log_det = model(x, context)
    for i in range(2):
        given = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, given=given: model(v, given)[0][0], x[i : i + 1]
        )
        expected = torch.linalg.slogdet(jacobian.view(D, D)).logabsdet
        torch.testing.assert_close(log_det[i], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PLANE)
def test_density_of_the_plane_integrates_to_one(name):
    model = make_model(*PLANE[name])
    side = torch.linspace(-30, 30, 751, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        mass = model.log_prob(grid).exp().sum() * (side[1] - side[0]) ** 2
    # The midpoint rule on a smooth density converges fast; ReLU networks leave kinks.
    torch.testing.assert_close(float(mass), 1.0, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", PLANE)
def test_samples_have_the_density_of_log_prob(name):
    model = make_model(*PLANE[name])
    x = model.sample(20_000, generator=torch.Generator().manual_seed(0))
    log_prob = model.log_prob(x).detach()

    # The mean of 1 / p over samples inside a box, times the mass there, is the box's area.
    inside = (x.abs() < 1.0).all(1)
    weights = torch.where(inside, (-log_prob).exp(), 0)
    error = weights.std() / len(x) ** 0.5
    assert abs(float(weights.mean()) - 4.0) < 5 * float(error)
    assert float(error) < 0.1


def test_every_output_of_a_flow_is_used():
    # Each z depends on some x, whatever leaves at which scale.
    model = make_model(RealNVP, RealNVPConfig(**IMAGE, scales=3))
    x = events(model, 1)
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v)[0], x).view(16, 16)
    assert bool((jacobian.abs().amax(0) > 0).all())
    assert bool((jacobian.abs().amax(1) > 0).all())


def test_squeeze_layouts_and_inverse():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    for layout in ("rows", "checkerboard"):
        squeeze = Squeeze(layout)
        y, log_det = squeeze(x)
        assert y.shape == (2, 12, 2, 3)
        assert torch.equal(squeeze.inverse(y)[0], x)
        assert torch.equal(log_det, torch.zeros(2))

    colour = (torch.arange(4)[:, None] + torch.arange(6)) % 2 == 0
    board, _ = Squeeze("checkerboard")(colour.expand(1, 3, 4, 6).float())
    assert bool((board[:, :6] == 1).all())
    assert bool((board[:, 6:] == 0).all())
    rows, _ = Squeeze("rows")(x)
    assert torch.equal(rows[:, 3:6], x[:, :, ::2, 1::2])


def test_squeezed_and_masked_checkerboards_keep_the_same_pixels():
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    moved = []
    for squeezed in (False, True):
        config = RealNVPConfig(**IMAGE, scales=1, couplings=1, squeezed=squeezed)
        model = make_model(RealNVP, replace(config, couplings=1))
        chain = model.transform.scales[0]
        steps = [step for step in chain.steps if not isinstance(step, ActNorm)]
        first = Chain(steps[:1] if not squeezed else [*steps[:2], steps[-1]])
        y, _ = first(x)
        moved.append((y - x).abs() > 1e-12)
    assert torch.equal(moved[0], moved[1])
    assert int(moved[0].sum()) == 8


def test_latents_leave_in_order():
    identity = [Chain([Squeeze()]), Chain([Squeeze()])]
    flow = MultiScale(identity, [(4, 2, 2), (8, 1, 1)])
    x = torch.arange(16.0).view(1, 1, 4, 4)
    z, _ = flow(x)
    # Lower rows of each block leave first.
    assert z.flatten()[:8].tolist() == [4, 6, 12, 14, 5, 7, 13, 15]
    assert torch.equal(flow.inverse(z)[0], x)


def test_inverse_swaps_directions():
    norm = ActNorm(3)
    with torch.no_grad():
        norm.log_scale.fill_(0.5)
    x = torch.randn(4, 3)
    swapped = Inverse(norm.eval())
    for mine, right in ((swapped(x), norm.inverse(x)), (swapped.inverse(x), norm(x))):
        assert torch.equal(mine[0], right[0])
        assert torch.equal(mine[1], right[1])


@pytest.mark.parametrize("name", MODELS)
def test_the_transform_begins_near_the_identity(name):
    model_class, config = MODELS[name]
    torch.manual_seed(0)
    model = model_class(config).eval()
    x = torch.randn(3, *config.event_shape)
    z, log_det = model.transform(x, model._context(context_for(model, 3), 3))
    if model_class is Glow:
        # Its mixing begins as rotations, which keep lengths.
        z, x = z.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1)
    torch.testing.assert_close(log_det, torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.flatten().sort().values, x.flatten().sort().values)
