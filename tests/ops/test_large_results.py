"""Results of 4 MiB and more, which C++ stores past the caches, have the bits of smaller calls."""

from __future__ import annotations

import pytest
import torch

from dgm_fast import ops
from dgm_fast._core import extension
from dgm_fast._core.schedule import cosine_tables

pytestmark = pytest.mark.skipif(
    extension.cpp_missing is not None, reason=str(extension.cpp_missing)
)

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
# Rows that begin on whole vectors, and rows that mostly do not.
widths = pytest.mark.parametrize("elements", [1024, 1027])

LARGE, PIECE = 2200, 600  # rows: 4.5 MB and 1.2 MB of 16 bits, 9 and 2.5 of 32


def draw(count, elements, dtype):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(LARGE, elements, generator=generator).to(dtype) for _ in range(count)]


def schedule():
    return dict(zip(("alpha", "sigma"), cosine_tables(1000, torch.device("cpu")), strict=True))


def steps():
    return torch.arange(LARGE) % 1000


def check(call, inputs):
    """Compare results and gradients of the whole with those of its pieces, side by side."""

    def run(first, last):
        mine = [each[first:last].detach().requires_grad_() for each in inputs]
        outputs = call(slice(first, last), *mine)
        outputs = [each for each in outputs if each.requires_grad]
        grads = torch.autograd.grad([each.float().square().sum() for each in outputs], mine)
        return [each.detach() for each in outputs] + list(grads)

    whole = run(0, LARGE)
    pieces = [run(first, min(first + PIECE, LARGE)) for first in range(0, LARGE, PIECE)]
    assert all(each.numel() * each.element_size() >= 2**22 for each in whole if each.ndim > 1)
    for each, parts in zip(whole, zip(*pieces, strict=True), strict=True):
        assert torch.equal(each, torch.cat(parts))


@widths
@dtypes
@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_gaussian_rsample_kl(dtype, elements, kl):
    def call(rows, mean, log_var):
        where = {"seed": 5, "sample_offset": rows.start}
        return ops.gaussian_rsample_kl(mean, log_var, kl=kl, impl="cpp", **where)

    check(call, draw(2, elements, dtype))


@widths
@dtypes
@pytest.mark.parametrize("target", ["noise", "velocity", "x0"])
def test_diffusion_noise(dtype, elements, target):
    def call(rows, x0):
        where = {"seed": 5, "sample_offset": rows.start, "target": target}
        return ops.diffusion_noise(x0, steps()[rows], **schedule(), impl="cpp", **where)

    check(call, draw(1, elements, dtype))


@widths
@dtypes
def test_diffusion_loss(dtype, elements):
    def call(rows, prediction, x0):
        where = {"seed": 5, "sample_offset": rows.start, "target": "velocity"}
        t = steps()[rows]
        return (ops.diffusion_loss(prediction, x0, t, **schedule(), impl="cpp", **where),)

    check(call, draw(2, elements, dtype))


@widths
@dtypes
def test_ddpm_step(dtype, elements):
    def call(rows, x_t, prediction):
        where = {"seed": 5, "sample_offset": rows.start, "target": "velocity"}
        t = steps()[rows].clamp(min=1)
        return (ops.ddpm_step(x_t, prediction, t, s=t - 1, **schedule(), impl="cpp", **where),)

    check(call, draw(2, elements, dtype))
