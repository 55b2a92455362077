"""What fits Hopper's kernel, and how it goes over it: decided from sizes, without a GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: `pip install 'triton>=3.6'`")

from dgm_fast._core.triton_taps.images import Grid
from dgm_fast._core.triton_taps.launch import Layer
from dgm_fast.ops import masked_conv2d
from dgm_fast.ops.masked_conv2d import crossover, hopper, hopper_tiles

GRID = Grid(64, 32, 32, 0, 1, 1)
KERNELS = [(1, 1), (3, 3), (5, 5), (7, 3), (1, 5), (3, 1)]


def _layer(kernel, outs=64, ins=64, parts=1, groups=1, strict=False):
    return Layer(outs, ins, parts, kernel, kernel[0] * kernel[1], groups, strict)


def _offsets(plan):
    """Return where from an output each tap reads, (down, across), in the order of the taps."""
    return [(first + i, across) for across, first, count in plan.columns for i in range(count)]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("strict", "groups"), [(False, 1), (True, 1), (True, 2)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_columns_hold_each_live_tap_once(kernel, strict, groups, after):
    plan = hopper.plan_of(_layer(kernel, groups=groups, strict=strict), GRID, after)
    up, left = kernel[0] // 2, kernel[1] // 2
    # Of several groups the centre is live for some, and a mask of the weight has the rest.
    centre = up * kernel[1] + left
    live = list(range(centre + (0 if strict and groups == 1 else 1)))
    if not live:
        assert plan is None
        return

    assert sorted(plan.taps) == live
    sign = -1 if after else 1
    offsets = [
        (sign * (tap // kernel[1] - up), sign * (tap % kernel[1] - left)) for tap in plan.taps
    ]
    assert _offsets(plan) == offsets


@pytest.mark.parametrize("width", [1, 7, 8, 14, 28, 32, 100])
@pytest.mark.parametrize("ins", [8, 64, 128, 136])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_plan_fits_shared_memory(kernel, ins, width):
    plan = hopper.plan_of(_layer(kernel, outs=128, ins=ins), Grid(4, 9, width, 0, 1, 1), False)
    shared, barriers, row = 227 * 1024, 1024, 128
    chunks, live = -(-ins // 64), kernel[0] // 2 * kernel[1] + kernel[1] // 2 + 1
    if plan is None:
        # Two stages of each of three warp groups, of 64 pixels at least, and one tile of weights.
        assert barriers + row * (live * chunks * 64 + 3 * 2 * 64) > shared - row * 3 * 2 * 64
        return

    pixels = 3 * plan.stages * plan.stage_rows * plan.tile_w
    assert barriers + row * (live * chunks * plan.tile_n + pixels) <= shared
    assert plan.tiles_n * plan.tile_n >= 128
    assert plan.stages >= 2
    assert max(count for _, _, count in plan.columns) - 1 + 64 // plan.tile_w == plan.stage_rows


def test_a_tile_wastes_as_few_pixels_as_it_can():
    def tile_w(height, width):
        return hopper.plan_of(_layer((3, 3)), Grid(8, height, width, 0, 1, 1), False).tile_w

    assert [tile_w(32, 32), tile_w(28, 28), tile_w(1, 640)] == [8, 16, 64]


@pytest.mark.parametrize(
    ("layer", "grid"),
    [
        pytest.param(_layer((3, 3), ins=60), GRID, id="channels"),
        pytest.param(_layer((3, 3), outs=12), GRID, id="outputs"),
        pytest.param(_layer((9, 9)), GRID, id="taps"),
        pytest.param(_layer((7, 7), ins=512), GRID, id="memory"),
        pytest.param(_layer((3, 3)), Grid(1, 32, 32, 0, 2, 1), id="dilated-down"),
    ],
)
def test_what_does_not_fit_is_left_to_triton(layer, grid):
    assert hopper.plan_of(layer, grid, False) is None


def test_a_dilation_across_is_a_longer_way_to_a_column():
    plan = hopper.plan_of(_layer((3, 3)), Grid(1, 8, 40, 0, 1, 5), False)
    assert [across for across, _, _ in plan.columns] == [-5, 0, 5]


@pytest.mark.parametrize(
    ("shape", "outs", "expected"),
    [
        ((64, 128, 32, 32), 256, True),
        ((64, 96, 32, 32), 256, True),
        ((64, 80, 32, 32), 256, False),
        ((64, 128, 32, 32), 24, False),
        ((2, 128, 32, 32), 256, False),
    ],
)
def test_auto_takes_it_where_it_is_full(shape, outs, expected):
    x = torch.empty(shape, device="meta").to(memory_format=torch.channels_last)
    weight = torch.empty(outs, shape[1], 3, 3, device="meta")
    assert crossover.hopper_is_faster(x, weight) is expected
    assert not crossover.hopper_is_faster(x.contiguous(), weight)


def test_without_a_gpu_it_says_why_it_cannot_run():
    if torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0):
        pytest.skip("a Hopper GPU is here")

    x = torch.zeros(1, 8, 4, 4, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="masked_conv2d: impl='cuda' cannot run"):
        masked_conv2d(x, torch.zeros(8, 8, 3, 3, dtype=torch.bfloat16), mask_type="B", impl="cuda")


@pytest.mark.parametrize(
    ("first", "width", "expected"), [(0, 16, True), (8, 24, True), (4, 16, False), (0, 12, False)]
)
def test_rows_beside_others_are_taken_where_vectors_start_on_16_bytes(first, width, expected):
    rows = torch.zeros(6, width, dtype=torch.bfloat16)[:, first : first + 8]
    assert hopper_tiles.fit(GRID, None, rows) is expected


@pytest.mark.parametrize(("width", "expected"), [(64, True), (2048, False)])
def test_rows_are_taken_where_places_of_a_sample_are_32_bit_integers(width, expected):
    grid = Grid(1, 1024, 1024, 0, 1, 1)
    # However few channels of a wider image they are.
    rows = torch.empty(2**20, width, device="meta", dtype=torch.bfloat16)[:, :64]
    assert hopper_tiles.fit(grid, rows) is expected


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")
def test_it_runs_where_its_images_are():
    if torch.cuda.get_device_capability(1) != (9, 0):
        pytest.skip("the second GPU is no Hopper")
    made = []
    for device in ("cuda:1", "cuda:0"):
        generator = torch.Generator().manual_seed(0)
        x, weight = (
            torch.randn(size, generator=generator).to(device, torch.bfloat16)
            for size in ((2, 64, 8, 8), (64, 64, 3, 3))
        )
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        weight.requires_grad_()
        y = masked_conv2d(x, weight, mask_type="B", impl="cuda")
        made.append([each.cpu() for each in (y, *torch.autograd.grad(y.sum(), (x, weight)))])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))
