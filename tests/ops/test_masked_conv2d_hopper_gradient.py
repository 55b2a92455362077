"""How Hopper's kernel goes over a weight's gradient, followed block by block without a GPU."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed: `pip install 'triton>=3.6'`")

from dgm_fast._core.triton_taps.images import Grid
from dgm_fast._core.triton_taps.launch import Layer
from dgm_fast.ops.masked_conv2d import hopper_gradient

CHUNK, WARP_GROUPS = 64, 4
KERNELS = [(1, 1), (3, 3), (5, 5), (9, 3), (1, 5), (3, 1)]


def _layer(kernel, outs=64, ins=64, parts=1, groups=1, strict=False):
    return Layer(outs, ins, parts, kernel, kernel[0] * kernel[1], groups, strict)


def _tiles(plan, grid):
    """Yield the pixels (sample, row, column) of each tile."""
    tile_h = 64 // plan.tile_w
    for sample in range(grid.samples):
        for row in range(0, grid.height, tile_h):
            for column in range(0, grid.width, plan.tile_w):
                rows = slice(row, min(row + tile_h, grid.height))
                yield sample, rows, slice(column, min(column + plan.tile_w, grid.width))


def _by_blocks(plan, grid, grad, x):
    """Add up the pieces (pieces, outs, taps, channels) as the blocks of the kernel do."""
    outs, ins = grad.shape[1], x.shape[1]
    taps = sum(len(each.taps) for each in plan.togethers)
    pieces = torch.full((plan.pieces, outs, taps, ins), float("nan"), dtype=torch.float64)
    tiles = list(_tiles(plan, grid))
    for block in range(plan.pieces * plan.tiles_c * plan.jobs):
        job, rest = block % plan.jobs, block // plan.jobs
        first_c, piece = rest % plan.tiles_c * plan.tile_c, rest // plan.tiles_c
        together = [each for each in plan.togethers if each.first_job <= job][-1]
        count = len(together.taps)
        begin, end = (len(tiles) * at // plan.pieces for at in (piece, piece + 1))
        channels = slice(first_c, first_c + plan.tile_c)
        for group in range(WARP_GROUPS):
            tap, chunk = group % count, group // count
            first_o = ((job - together.first_job) * (WARP_GROUPS // count) + chunk) * CHUNK
            down = together.first + tap * grid.down
            seen = _shifted(x, down, together.across)[:, channels]
            sums = sum(
                torch.einsum(
                    "ohw,chw->oc", grad[s, first_o : first_o + CHUNK, h, w], seen[s, :, h, w]
                )
                for s, h, w in tiles[begin:end]
            )
            to = pieces[piece, first_o : first_o + CHUNK, together.taps[tap], channels]
            assert to.isnan().all()
            to.copy_(sums)
    return pieces


def _shifted(x, down, across):
    """Return what each pixel sees so far from it."""
    height, width = x.shape[2:]
    far = max(abs(down), abs(across))
    padded = F.pad(x, (far,) * 4)
    return padded[:, :, far + down :, far + across :][:, :, :height, :width]


@pytest.mark.parametrize(
    ("strict", "groups", "parts", "dilation"),
    [(False, 1, 2, (1, 1)), (True, 1, 1, (1, 2)), (True, 2, 1, (2, 1))],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_blocks_add_up_each_gradient_once(kernel, strict, groups, parts, dilation):
    generator = torch.Generator().manual_seed(0)
    outs, ins = 104, 136
    layer = _layer(kernel, outs, ins, parts, groups, strict)
    grid = Grid(3, 7, 21, 0, *dilation)
    plan = hopper_gradient.plan_of(layer, grid)
    if kernel == (1, 1) and strict and groups == 1:
        assert plan is None
        return

    x = torch.randn(3, ins, 7, 21, dtype=torch.float64, generator=generator)
    grad = torch.randn(3, parts * outs, 7, 21, dtype=torch.float64, generator=generator)
    found = _by_blocks(plan, grid, grad, x).sum(0)
    padding = [size // 2 * apart for size, apart in zip(kernel, dilation, strict=True)]
    weight = torch.zeros(parts * outs, ins, *kernel, dtype=torch.float64, requires_grad=True)
    F.conv2d(x, weight, padding=padding, dilation=dilation).backward(grad)
    expected = weight.grad.flatten(2)[:, :, : found.shape[1]].transpose(1, 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("width", [1, 8, 14, 28, 32, 100])
@pytest.mark.parametrize("ins", [8, 64, 72, 520])
@pytest.mark.parametrize("kernel", KERNELS)
def test_stages_fit_shared_memory_and_hold_what_a_block_reads(kernel, ins, width):
    plan = hopper_gradient.plan_of(_layer(kernel, 256, ins), Grid(4, 9, width, 0, 1, 1))
    assert 1024 + plan.stages * plan.stage <= 227 * 1024
    assert plan.stages >= 2
    assert plan.tiles_c * plan.tile_c >= ins
    for each in plan.togethers:
        count = len(each.taps)
        rows = 64 // plan.tile_w + count - 1
        of_grad, of_x = WARP_GROUPS // count * 64 * 128, rows * plan.tile_w * 128
        assert plan.stage >= of_grad + plan.tile_c // CHUNK * of_x
        # Eight rows of a matrix start on 1024 bytes.
        assert of_x % 1024 == plan.stage % 1024 == plan.tile_w % 8 == 0


def test_a_large_layer_has_a_block_for_each_processor():
    plan = hopper_gradient.plan_of(_layer((3, 3), 128, 128, parts=2), Grid(64, 32, 32, 0, 1, 1))
    assert (plan.jobs, plan.tiles_c, plan.pieces, plan.stages) == (5, 1, 26, 4)
    assert [len(each.taps) for each in plan.togethers] == [2, 2, 1]


@pytest.mark.parametrize(
    ("layer", "grid"),
    [
        pytest.param(_layer((3, 3), ins=60), Grid(1, 8, 8, 0, 1, 1), id="channels"),
        pytest.param(_layer((3, 3), outs=12), Grid(1, 8, 8, 0, 1, 1), id="outputs"),
        pytest.param(_layer((9, 9)), Grid(1, 8, 8, 0, 1, 1), id="taps"),
        pytest.param(_layer((3, 3), outs=0), Grid(1, 8, 8, 0, 1, 1), id="no-outputs"),
        pytest.param(_layer((3, 3), ins=0), Grid(1, 8, 8, 0, 1, 1), id="no-channels"),
    ],
)
def test_what_does_not_fit_is_left_to_triton(layer, grid):
    assert hopper_gradient.plan_of(layer, grid) is None
