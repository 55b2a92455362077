"""Which implementation of `masked_conv2d` a call takes, and in which tiles its kernels run."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from dgm_fast import ops
from dgm_fast._core import precision
from dgm_fast.ops.masked_conv2d import crossover, reference


@pytest.mark.parametrize(
    ("dtype", "in_tf32", "is_left"),
    [(torch.float32, False, True), (torch.float32, True, False), (torch.bfloat16, False, False)],
)
def test_auto_leaves_a_gpus_products_without_tensor_cores_to_torch(
    monkeypatch, dtype, in_tf32, is_left
):
    monkeypatch.setattr(precision, "convolutions_in_tf32", lambda: in_tf32)
    monkeypatch.setattr(crossover, "_MULTIPLIES_BFLOAT16", False)

    weight = torch.ones(1, 1, 3, 3)
    for is_cuda in (True, False):
        x = SimpleNamespace(is_cuda=is_cuda, dtype=dtype)
        assert crossover.reference_is_faster(x, weight, False) is (is_cuda and is_left)


@pytest.mark.parametrize("has_products", [False, True])
def test_auto_leaves_bfloat16_to_a_cpu_that_multiplies_it(monkeypatch, has_products):
    monkeypatch.setattr(crossover, "_MULTIPLIES_BFLOAT16", has_products)

    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x, weight = torch.ones(1, 1, 4, 4, dtype=dtype), torch.ones(1, 1, 3, 3, dtype=dtype)
        is_left = has_products and dtype is torch.bfloat16
        assert crossover.reference_is_faster(x, weight, False) is is_left


@pytest.mark.parametrize(
    ("side", "gated", "last", "is_left"),
    [
        (1, False, True, True),
        (1, True, True, False),
        (1, False, False, False),
        (3, False, True, False),
    ],
)
def test_auto_leaves_products_of_matrices_to_torch(side, gated, last, is_left):
    x, weight = torch.ones(2, 4, 5, 5), torch.ones(4, 4, side, side)
    x = x.contiguous(memory_format=torch.channels_last) if last else x

    assert crossover.reference_is_faster(x, weight, gated) is is_left


def _differentiated(x, residual):
    weight = torch.randn(48, x.shape[1], 3, 3, generator=torch.Generator().manual_seed(1))
    leaves = tuple(each.detach().requires_grad_() for each in (x, weight, residual))
    x, weight, residual = leaves
    options = {"mask_type": "B", "channel_groups": 2, "residual": residual, "gated": True}
    y = ops.masked_conv2d(x, weight, impl="triton", **options)
    expected = reference.masked_conv2d(x, weight, **options)
    above = torch.ones_like(y)
    return (y, *torch.autograd.grad(y, leaves, above)), (
        expected,
        *torch.autograd.grad(expected, leaves, above),
    )


@pytest.mark.interpret
def test_samples_too_large_for_narrow_offsets_give_the_same_bits(monkeypatch):
    launch = pytest.importorskip("dgm_fast._core.triton_taps.launch")
    layout = launch.layout
    x, residual = torch.randn(2, 16, 5, 4), torch.randn(2, 48, 4, 5).transpose(2, 3)

    narrow, _ = _differentiated(x, residual)
    monkeypatch.setattr(launch, "layout", lambda *given: (*layout(*given)[:3], True))
    wide, _ = _differentiated(x, residual)
    assert all(map(torch.equal, narrow, wide))


@pytest.mark.interpret
@pytest.mark.parametrize("first", [0, 16, 3], ids=["aligned", "beside", "odd"])
def test_channels_beside_others_are_read_where_they_lie(first):
    beside = torch.randn(2, 48, 5, 4).contiguous(memory_format=torch.channels_last)

    got, expected = _differentiated(beside[:, first : first + 16], torch.randn(2, 48, 5, 4))
    for each, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(each, exact, rtol=1e-5, atol=1e-4)


def test_offsets_are_wide_where_a_sample_is_large():
    launch = pytest.importorskip("dgm_fast._core.triton_taps.launch")
    images = [
        launch.images(torch.empty(2, channels, 2**10, 2**10, device="meta"))
        for channels in (3, 2**11 - 1, 2**11)
    ]

    assert [launch.layout((each,))[3] for each in images] == [False, True, True]
    assert launch.layout((launch.images(None), images[0])) == (16, 16, 1, False)


@pytest.mark.parametrize("kind", ["16", "tf32", "ieee", "odd"])
@pytest.mark.parametrize("backend", ["cuda", "hip"])
def test_few_tiles_are_timed_and_none_is_twice_as_large_as_the_output(backend, kind):
    tiles = pytest.importorskip("dgm_fast._core.triton_taps.tiles")
    if (backend, kind) == ("hip", "tf32"):
        pytest.skip("TF32 is NVIDIA's")

    target = SimpleNamespace(backend=backend, arch=90)
    for height, width in itertools.product((1, 20, 100, 2**20), (1, 10, 64, 120, 1024)):
        suited = tiles._suited_tiles(height, width, kind, target)
        assert 1 <= len(suited) <= 5
        assert all(m < 2 * max(height, 32) and n < 2 * max(width, 32) for m, n, *_ in suited)
