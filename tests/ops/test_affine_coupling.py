"""The mathematics of `affine_coupling`: its Jacobian, its inverse, its peers' formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from dgm_fast.ops import affine_coupling
from tests.contract.subjects import each_subject

implementations = each_subject(op="affine_coupling")
kernels = each_subject(op="affine_coupling", reference=False)

MAPS = {
    "exp": {},
    "tanh": {"scale_map": "tanh", "bound": 1.5},
    "scaled_tanh": {"scale_map": "scaled_tanh", "bound": 1.5},
    "atan": {"scale_map": "atan", "bound": 2.0},
    "soft_clip": {"scale_map": "soft_clip", "bound": 3.0},
    "sigmoid": {"scale_map": "sigmoid"},
    "nflows": {"scale_map": "sigmoid", "min_scale": 1e-3},
    "reciprocal_sigmoid": {"scale_map": "reciprocal_sigmoid"},
    "softplus": {"scale_map": "softplus"},
    "softplus_clipped": {"scale_map": "softplus", "min_scale": 1e-3, "bound": math.log(1.2)},
}
each_map = pytest.mark.parametrize("options", MAPS.values(), ids=MAPS.keys())


def draw(*shapes, seed=0, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).to(device) for shape in shapes]


def draw_for(subject, *shapes):
    return draw(*shapes, dtype=torch.float32, device=subject.device)


@each_map
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shift_first", [False, True])
@pytest.mark.parametrize("part", ["first", "last"])
def test_log_det_is_the_jacobians(options, inverse, shift_first, part):
    x, u, t = draw((3, 5, 2), (3, 2, 2), (3, 2, 2))
    options = {**options, "inverse": inverse, "shift_first": shift_first, "part": part}
    _, log_det = affine_coupling(x, u, t, **options)

    for sample in range(3):
        one = [each[sample : sample + 1] for each in (x, u, t)]
        jacobian = torch.autograd.functional.jacobian(
            lambda x, one=one: affine_coupling(x, *one[1:], **options)[0], one[0]
        )
        _, expected = torch.linalg.slogdet(jacobian.reshape(10, 10))
        torch.testing.assert_close(log_det[sample], expected)


@each_map
@implementations
def test_the_inverse_undoes_both_orders(subject, options):
    x, u, t = draw_for(subject, (6, 5, 3, 3), (6, 3, 3, 3), (6, 3, 3, 3))

    for shift_first, part in itertools.product((False, True), ("first", "last")):
        how = {**options, "shift_first": shift_first, "part": part}
        y, log_det = subject.run({"x": x, "log_scale": u, "shift": t, **how})
        again, back = subject.run({"x": y, "log_scale": u, "shift": t, "inverse": True, **how})

        # An inverse divides the rounding of y, at most some 16 half ulps of it, by the scale.
        scale, _ = affine_coupling(
            torch.ones_like(u).double(), u.double(), 0 * t.double(), **options
        )
        allowed = 16 * 2**-24 * (1 + (x.abs().amax() + t.abs().amax()) * (1 + scale.amin().pow(-1)))
        assert (again - x).abs().max() <= allowed
        torch.testing.assert_close(back, -log_det)


def _nflows(u):
    return torch.sigmoid(u + 2) + 1e-3


def _nflows_general(u):
    return (F.softplus(u, threshold=100) + 1e-3).clamp(0, 3)


PEERS = {
    "nflows, default": (_nflows, {"scale_map": "sigmoid", "min_scale": 1e-3}),
    "nflows, general": (
        _nflows_general,
        {"scale_map": "softplus", "min_scale": 1e-3, "bound": math.log(3)},
    ),
    "nflows, autoregressive": (
        lambda u: F.softplus(u, threshold=100) + 1e-3,
        {"scale_map": "softplus", "min_scale": 1e-3},
    ),
    "normflows, exp": (torch.exp, {}),
    "normflows, sigmoid": (lambda u: 1 / torch.sigmoid(u + 2), {"scale_map": "reciprocal_sigmoid"}),
    "normflows, sigmoid_inv": (lambda u: torch.sigmoid(u + 2), {"scale_map": "sigmoid"}),
    "FrEIA, ATAN": (
        lambda u: torch.exp(2.0 * (0.636 * torch.atan(u))),
        {"scale_map": "atan", "bound": 2.0},
    ),
    "FrEIA, TANH": (
        lambda u: torch.exp(2.0 * torch.tanh(u)),
        {"scale_map": "scaled_tanh", "bound": 2.0},
    ),
    "FrEIA, AllInOne": (
        lambda u: torch.exp(2.0 * torch.tanh(u / 2.0)),
        {"scale_map": "tanh", "bound": 2.0},
    ),
}


@pytest.mark.parametrize(("scale_of", "options"), PEERS.values(), ids=PEERS.keys())
def test_peers_formulas(scale_of, options):
    x, u, t = draw((5, 4, 3), (5, 2, 3), (5, 2, 3))
    u = 3 * u
    scale = scale_of(u)

    y, log_det = affine_coupling(x, u, t, **options)
    torch.testing.assert_close(y, torch.cat((x[:, :2], x[:, 2:] * scale + t), dim=1))
    torch.testing.assert_close(log_det, scale.log().sum((1, 2)))

    z, back = affine_coupling(x, u, t, inverse=True, **options)
    torch.testing.assert_close(z, torch.cat((x[:, :2], (x[:, 2:] - t) / scale), dim=1))
    torch.testing.assert_close(back, -log_det)


@implementations
def test_glow_shifts_before_it_scales_and_interleaves_its_parameters(subject):
    x, h = draw_for(subject, (4, 6, 5, 5), (4, 6, 5, 5))
    shift, raw = h[:, 0::2], h[:, 1::2]
    scale = torch.sigmoid(raw + 2)
    expected = torch.cat((x[:, :3], (x[:, 3:] + shift) * scale), dim=1)

    options = {"scale_map": "sigmoid", "shift_first": True}
    y, log_det = subject.run({"x": x, "log_scale": raw, "shift": shift, **options})
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(log_det, scale.log().sum((1, 2, 3)))


@implementations
def test_zuko(subject):
    transforms = pytest.importorskip("zuko.transforms", reason="zuko is not installed")
    x, u, t = draw_for(subject, (50, 7), (50, 7), (50, 7))
    expected = transforms.MonotonicAffineTransform(t, 5 * u, slope=1e-3)

    options = {"scale_map": "soft_clip", "bound": -math.log(1e-3)}
    y, log_det = subject.run({"x": x, "log_scale": 5 * u, "shift": t, **options})
    torch.testing.assert_close(y, expected(x))
    torch.testing.assert_close(log_det, expected.log_abs_det_jacobian(x, y).sum(1))

    z, _ = subject.run({"x": x, "log_scale": 5 * u, "shift": t, "inverse": True, **options})
    torch.testing.assert_close(z, expected.inv(x))


@implementations
def test_nice_shifts_and_keeps_volume(subject):
    x, t = draw_for(subject, (4, 6, 5), (4, 3, 5))
    y, log_det = subject.run({"x": x, "log_scale": None, "shift": t})

    assert torch.equal(y, torch.cat((x[:, :3], x[:, 3:] + t), dim=1))
    assert torch.equal(log_det, torch.zeros_like(log_det))
    assert log_det.shape == (4,)


@implementations
def test_what_stays_stays_to_the_last_bit_and_takes_no_gradient(subject):
    x, u, t = draw_for(subject, (4, 3, 6, 6), (4, 3, 6, 6), (4, 3, 6, 6))
    place = torch.arange(6, device=subject.device)
    mask = (place[:, None] + place) % 2 == 0
    # What a network puts out where it is not asked must not come through, however wrong.
    u[..., mask], t[..., mask] = torch.nan, torch.inf
    inputs = {"x": x, "log_scale": u, "shift": t}
    for each in inputs.values():
        each.requires_grad_()

    for options in ({}, {"inverse": True}, {"scale_map": "sigmoid", "shift_first": True}):
        y, log_det = subject.run({**inputs, "mask": mask, **options})
        assert torch.equal(y[..., mask], x[..., mask])
        assert log_det.isfinite().all()

        if subject.is_reference:
            continue
        grad_x, grad_u, grad_t = torch.autograd.grad(
            y.sum() + log_det.sum(), tuple(inputs.values())
        )
        assert torch.equal(grad_x[..., mask], torch.ones_like(grad_x[..., mask]))
        for grad in (grad_u, grad_t):
            assert torch.equal(grad[..., mask], torch.zeros_like(grad[..., mask]))
            assert grad.isfinite().all()


@pytest.mark.parametrize("options", MAPS.values(), ids=MAPS.keys())
@kernels
def test_scale_its_logarithm_and_its_slope_are_exact_however_saturated(subject, options):
    u = torch.linspace(-30, 30, 6001)[:, None].to(subject.device).requires_grad_()
    ones, zeros = torch.ones_like(u), torch.zeros_like(u)
    exactly = u.detach().double().requires_grad_()
    _, expected = affine_coupling(ones.double(), exactly, zeros.double(), **options)
    (expected_slope,) = torch.autograd.grad(expected.sum(), exactly)

    y, log_s = subject.run({"x": ones, "log_scale": u, "shift": zeros, **options})
    (slope,) = torch.autograd.grad(log_s.sum(), u)
    with torch.no_grad():
        z, _ = subject.run({"x": ones, "log_scale": u, "shift": zeros, "inverse": True, **options})

    # Half ulps, as in the README: of log s, of a scale by its logarithm, of the slope. The
    # rounding of u + 2 moves these by |u + 2| half ulps, a logarithm of a sum by the sum's own.
    unit, absolute = 2.0**-24, expected.detach().abs()
    of_sum = (exactly.detach()[:, 0] + 2).abs() if "sigmoid" in str(options) else 0.0
    is_logarithm = options.get("scale_map") == "softplus" or "min_scale" in options
    first = expected_slope[:, 0].abs()
    log_error = (log_s - expected).abs().detach()
    assert (log_error <= unit * (11 * absolute + first * of_sum + 9 * is_logarithm)).all()

    scale = expected.detach().exp()
    of_scale = unit * (14 + 11 * absolute + of_sum)
    assert ((y[:, 0] / scale - 1).abs() <= of_scale).all()
    assert ((z[:, 0] * scale - 1).abs() <= of_scale).all()
    slope_error = (slope[:, 0] - expected_slope[:, 0]).abs()
    # float64 itself takes the slope from 1.
    assert (slope_error <= unit * (24 + of_sum) * first + 1e-15).all()


@each_subject(op="affine_coupling", reference=False, interpreted=False)
def test_large_results_that_go_past_the_caches(subject):
    # From 4 MiB on results are stored another way, where a line begins on a whole vector.
    for inner in (4096, 4099):
        x, u, t = draw_for(subject, (50, 7, inner), (50, 4, inner), (50, 4, inner))
        mixed, exact = {}, {}
        for name, value in (("x", x), ("log_scale", u), ("shift", t)):
            mixed[name] = value.requires_grad_()
            exact[name] = value.detach().double().requires_grad_()

        got = subject.run(mixed)
        expected = affine_coupling(**exact)
        weights = [torch.randn_like(each) for each in got]
        grads = torch.autograd.grad(got, tuple(mixed.values()), weights)
        exactly = torch.autograd.grad(
            expected, tuple(exact.values()), [each.double() for each in weights]
        )

        for each, right in zip((*got, *grads), (*expected, *exactly), strict=True):
            torch.testing.assert_close(each.double(), right, rtol=1e-5, atol=1e-4)


@pytest.mark.interpret
@pytest.mark.parametrize("programs", [2, 4], ids=["one-piece", "two-pieces"])
def test_a_program_runs_over_every_tile_of_its_piece(programs, monkeypatch):
    kernels = pytest.importorskip("dgm_fast.ops.affine_coupling.kernels")
    leaves = draw((2, 3, 2501), (2, 2, 2501), (2, 2, 2501), dtype=torch.float32)

    def run():
        x, u, t = (each.requires_grad_() for each in leaves)
        y, log_det = affine_coupling(x, u, t, impl="triton")
        return y, *torch.autograd.grad((y.sum(), log_det.sum()), (x, u, t)), log_det

    *tile_by_tile, expected = run()
    # Three tiles of what moves and two of what stays.
    monkeypatch.setattr(kernels, "_PROGRAMS", programs)
    assert kernels._plan(leaves[0], leaves[2])[0]["pieces"] == programs // 2

    *in_loops, log_det = run()
    assert all(map(torch.equal, in_loops, tile_by_tile))
    rounding = 2 * leaves[1][0, 0].numel() * 2**-24 * leaves[1].abs().sum((1, 2))
    assert ((log_det - expected).abs() <= 2 * rounding).all()


@implementations
def test_a_network_in_bfloat16_on_data_in_float32(subject):
    x, u, t = draw_for(subject, (8, 6, 5), (8, 3, 5), (8, 3, 5))
    u, t = u.bfloat16(), t.bfloat16()

    y, log_det = subject.run({"x": x, "log_scale": u, "shift": t})
    expected, exactly = affine_coupling(x.double(), u.double(), t.double())
    assert (y.dtype, log_det.dtype) == (torch.float32, torch.float32)
    # Data keep their digits: the parameters are what they are.
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det.double(), exactly, rtol=1e-6, atol=1e-6)


@kernels
def test_gradients_of_one_output_alone(subject):
    inputs = dict(
        zip(("x", "log_scale", "shift"), draw_for(subject, *[(5, 3, 4)] * 3), strict=True)
    )
    exact = {name: value.double().requires_grad_() for name, value in inputs.items()}
    for value in inputs.values():
        value.requires_grad_()

    for place in (0, 1):
        got = torch.autograd.grad(
            subject.run(inputs)[place].sum(),
            tuple(inputs.values()),
            materialize_grads=True,
            allow_unused=True,
        )
        expected = torch.autograd.grad(
            affine_coupling(**exact)[place].sum(),
            tuple(exact.values()),
            materialize_grads=True,
            allow_unused=True,
        )
        for each, exactly in zip(got, expected, strict=True):
            torch.testing.assert_close(each.double(), exactly, rtol=1e-5, atol=1e-6)
