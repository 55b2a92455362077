"""The mathematics of `actnorm` and of the statistics that initialise it."""

from __future__ import annotations

import math

import pytest
import torch

from dgm_fast.ops import actnorm, actnorm_statistics
from tests.contract.subjects import each_subject

implementations = each_subject(op="actnorm")
kernels = each_subject(op="actnorm", reference=False)
of_statistics = each_subject(op="actnorm_statistics")

SHAPES = [(7, 5), (6, 3, 5), (3, 4, 9, 11), (2, 3, 2, 3, 2)]
UNIT = 2.0**-24


def draw(*shape, seed=0, dtype=torch.float32):
    """Draw x of a mean and a spread that differ from channel to channel, a log-scale, a shift."""
    generator = torch.Generator().manual_seed(seed)
    log_scale, shift = torch.randn(2, shape[1], generator=generator, dtype=dtype)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    each = (-1, *[1] * (len(shape) - 2))
    return x * (0.5 * log_scale).exp().view(each) + 3 * shift.view(each), log_scale, shift


def channels_last(x):
    return x.transpose(1, -1).contiguous().transpose(1, -1)


def run(subject, x, log_scale, shift, **options):
    """Call it on the subject's device, with gradients that come back from there."""
    x, log_scale, shift = (each.to(subject.device) for each in (x, log_scale, shift))
    y, log_det = subject.run({"x": x, "log_scale": log_scale, "shift": shift, **options})
    return y.cpu(), log_det.cpu()


def statistics(subject, x):
    return tuple(each.cpu() for each in subject.run({"x": x.to(subject.device)}))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 3), (2, 3, 2, 2)], ids=str)
@implementations
def test_log_det_is_the_jacobians(subject, shape, inverse):
    x, log_scale, shift = draw(*shape)
    _, log_det = run(subject, x, log_scale, shift, inverse=inverse)

    for sample in range(shape[0]):
        one = x[sample : sample + 1].clone().requires_grad_()
        y, _ = run(subject, one, log_scale, shift, inverse=inverse)
        # Row by row: the Jacobian of what the implementation computes, by its own backward.
        rows = [torch.autograd.grad(each, one, retain_graph=True)[0] for each in y.flatten()]
        jacobian = torch.stack(rows).view(one.numel(), one.numel()).double()
        expected = torch.linalg.slogdet(jacobian).logabsdet
        # Each of its elements is within 4 half ulps, log_det within half an ulp for each term.
        allowed = UNIT * (4 * one.numel() + (shape[1] + 2) * one.numel() * log_scale.abs().max())
        assert (log_det[sample].double() - expected).abs() <= allowed


@pytest.mark.parametrize("layout", [torch.clone, channels_last])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@implementations
def test_the_inverse_undoes_it(subject, shape, layout):
    x, log_scale, shift = draw(*shape)
    x = layout(x)
    y, log_det = run(subject, x, log_scale, shift)
    again, back = run(subject, y, log_scale, shift, inverse=True)

    # Both exponentials, both products and y's rounding are relative to x + t; the sums to x and t.
    allowed = UNIT * 12 * (x.abs().max() + shift.abs().max())
    assert (again - x).abs().max() <= allowed
    assert torch.equal(back, -log_det)


@implementations
def test_an_image_keeps_its_channels_last(subject):
    x, log_scale, shift = draw(4, 6, 5, 7)
    x = x.contiguous(memory_format=torch.channels_last)
    leaf = x.clone().requires_grad_()
    y, log_det = run(subject, leaf, log_scale, shift)
    (grad,) = torch.autograd.grad(y.square().sum() + log_det.sum(), leaf)
    for each in (y, grad):
        assert each.is_contiguous(memory_format=torch.channels_last)

    plain, _ = run(subject, x.contiguous(), log_scale, shift)
    torch.testing.assert_close(y, plain, rtol=2 * UNIT, atol=0)


@kernels
def test_gradients_arrive_in_any_layout(subject):
    x, log_scale, shift = draw(5, 6, 4, 5)
    grad_y = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    grads = (grad_y, channels_last(grad_y), torch.ones(()).expand_as(grad_y))

    for layout in (torch.clone, channels_last):
        for grad in grads:
            leaves = [each.clone().requires_grad_() for each in (layout(x), log_scale, shift)]
            exact = [each.double().detach().requires_grad_() for each in leaves]
            got = torch.autograd.grad(run(subject, *leaves)[0], leaves, grad)
            expected = torch.autograd.grad(actnorm(*exact)[0], exact, grad.double())
            for each, exactly in zip(got, expected, strict=True):
                torch.testing.assert_close(each.double(), exactly, rtol=1e-5, atol=1e-5)


@kernels
def test_gradients_of_one_output_alone(subject):
    for inverse in (False, True):
        for place in (0, 1):
            leaves = [each.requires_grad_() for each in draw(5, 3, 4)]
            exact = [each.double().detach().requires_grad_() for each in leaves]
            options = {"allow_unused": True, "materialize_grads": True}
            got = run(subject, *leaves, inverse=inverse)[place].sum()
            expected = actnorm(*exact, inverse=inverse)[place].sum()
            for each, exactly in zip(
                torch.autograd.grad(got, leaves, **options),
                torch.autograd.grad(expected, exact, **options),
                strict=True,
            ):
                torch.testing.assert_close(each.double(), exactly, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(300, 6, 1031), (5000, 300), (40000, 3, 11)], ids=str)
@each_subject(op="actnorm", reference=False, device_type="cpu")
def test_sums_over_many_elements_keep_their_digits(subject, shape):
    if subject.is_interpreted:
        pytest.skip("a million elements take the interpreter minutes")

    # From 4 MiB on results go past the caches; x is far from zero, and x + t is not.
    x, log_scale, shift = draw(*shape)
    each = (-1, *[1] * (len(shape) - 2))
    x = (x + 1000).requires_grad_()
    shift = (shift - 1000).requires_grad_()
    log_scale.requires_grad_()
    y, _ = run(subject, x, log_scale, shift)
    exact = [leaf.detach().double() for leaf in (x, log_scale, shift)]
    centred = exact[0] + exact[2].view(each)
    scale = exact[1].exp().view(each)
    torch.testing.assert_close(y.double(), centred * scale, rtol=1e-6, atol=0)

    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(y, (x, log_scale, shift), grad)
    others = [dim for dim in range(x.ndim) if dim != 1]
    terms = (grad.double() * scale * centred, grad.double() * scale)
    torch.testing.assert_close(got[0].double(), grad * scale, rtol=1e-6, atol=0)
    for found, term in zip(got[1:], terms, strict=True):
        # Sums of parts of 4096 elements at most, in lanes: some hundred roundings, not a million.
        allowed = 256 * UNIT * term.abs().sum(others)
        assert ((found.double() - term.sum(others)).abs() <= allowed).all()


@pytest.mark.parametrize("layout", [torch.clone, channels_last])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@of_statistics
def test_an_output_initialised_has_mean_0_and_deviation_1(subject, shape, layout):
    x = layout(draw(*shape)[0])
    mean, squares, count = statistics(subject, x)
    assert count == x.numel() / shape[1]

    parameters = (each.to(subject.device) for each in (-0.5 * (squares / count).log(), -mean))
    y, _ = actnorm(x.to(subject.device), *parameters, impl=subject.implementation.name)
    channels = y.cpu().transpose(0, 1).flatten(1).double()
    # The mean is stored within half an ulp of it, which the scale multiplies.
    scale = (count / squares).sqrt()
    allowed = UNIT * (8 + 4 * scale * mean.abs())
    assert (channels.mean(1).abs() <= allowed).all()
    assert (channels.var(1, correction=0) - 1).abs().max() <= 64 * UNIT


@of_statistics
def test_halves_merge_to_the_whole(subject):
    x = 1000 + draw(11, 3, 5, 7)[0]
    mean, squares, count = (
        torch.stack(parts).double()
        for parts in zip(*(statistics(subject, half) for half in x.split([4, 7])), strict=True)
    )
    count = count[:, None]
    merged = (count * mean).sum(0) / count.sum()
    deviations = (squares + count * (mean - merged).square()).sum(0)

    whole = statistics(subject, x)
    exact = x.double().transpose(0, 1).flatten(1)
    expected = exact.mean(1), exact.var(1, correction=0) * exact.shape[1], exact.shape[1]
    # float32 keeps the means of halves within half an ulp, 2^-15: their square is nothing.
    for found in (whole, (merged, deviations, count.sum())):
        torch.testing.assert_close(found[0].double(), expected[0], rtol=2 * UNIT, atol=0)
        torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=0)
        assert found[2] == expected[2]


@of_statistics
def test_a_mean_far_from_zero_costs_no_digits(subject):
    if subject.is_reference:
        pytest.skip("the reference sums in one piece")

    # The squares' float32 mean alone, 1e8, would round by more than the variance.
    for shape, layout in (((40, 3, 500), torch.clone), ((40, 3, 50), channels_last)):
        x = layout(1e4 + draw(*shape)[0])
        mean, squares, _ = statistics(subject, x)
        exact = x.double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(mean.double(), exact.mean(1), rtol=2 * UNIT, atol=0)
        expected = exact.var(1, correction=0) * exact.shape[1]
        torch.testing.assert_close(squares.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, -1e4])
@of_statistics
def test_a_constant_channel_has_no_deviations(subject, value):
    x = torch.full((13, 2, 77), value)
    x[:, 1] = torch.randn(13, 77, generator=torch.Generator().manual_seed(0))
    mean, squares, _ = statistics(subject, x)
    # What is left of deviations is a rounding of the mean, squared.
    terms = 13 * 77
    assert (mean[0] - value).abs() <= UNIT * terms * abs(value)
    assert 0 <= squares[0] <= terms * (UNIT * terms * value) ** 2
    assert squares[1] > 0


def test_statistics_are_constants():
    x = torch.randn(5, 3, requires_grad=True)
    assert not any(each.requires_grad for each in actnorm_statistics(x))


@implementations
def test_the_log_det_of_many_pixels_keeps_its_digits(subject):
    log_scale = torch.full((3,), math.log(1.1))
    x = torch.zeros(2, 3, 128, 128)
    _, log_det = run(subject, x, log_scale, torch.zeros(3))
    expected = (128**2 * log_scale.double().sum()).expand(2)
    torch.testing.assert_close(log_det.double(), expected, rtol=4 * UNIT, atol=0)
