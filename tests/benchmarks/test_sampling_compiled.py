"""The loops that are written for torch.compile draw what the others do, compiled and not."""

from __future__ import annotations

import pytest
import torch

from benchmarks.columns import COMPILE_MODES
from benchmarks.sampling import masked, pixels
from benchmarks.sampling.compiled_masked import CompiledBlocks
from benchmarks.sampling.compiled_pixels import CompiledLoop
from benchmarks.sampling.masked import BernoulliMADE, MAFStep, SplineStep
from dgm_fast.families import (
    GatedPixelCNN,
    GatedPixelCNNConfig,
    PixelCNN,
    PixelCNNConfig,
    PixelCNNpp,
    PixelCNNppConfig,
)
from dgm_fast.sampling import MaskedSampler, PixelSampler

# With strides, with rows of no whole period, with channels that are drawn one after another.
NETWORKS = {
    "grey": (PixelCNN, PixelCNNConfig((5, 4), channels=8, blocks=1)),
    "colours": (
        PixelCNN,
        PixelCNNConfig(
            (3, 5, 4), output="categorical", levels=8, channels=12, blocks=1, head_channels=12
        ),
    ),
    "gated": (GatedPixelCNN, GatedPixelCNNConfig((5, 4), channels=8, layers=2)),
    "strides": (PixelCNNpp, PixelCNNppConfig((3, 8, 8), channels=8, blocks=1, components=2)),
}


def plain(function):
    return function


def traced(function):
    """As torch.compile traces it, without kernels, which take long to compile."""
    return torch.compile(function, dynamic=False, fullgraph=True, backend="aot_eager")


@pytest.fixture(autouse=True)
def forget():
    torch._dynamo.reset()


def drawn(model, batch=3, **options):
    """Draw images of which a row and some pixels are given, on the loop that options are of."""
    sampler = PixelSampler(model._describe(), impl="reference")
    if options:
        loop = sampler._loop
        sampler._loop = CompiledLoop(loop.plan, loop.output, sampler.size, **options)
    noise = model.draw_noise(batch, torch.Generator().manual_seed(1))
    given = torch.zeros(batch, *sampler.size, dtype=torch.bool)
    given[:, 0], given[-1, 2, 1:] = True, True
    images = torch.ones(batch, sampler.output.channels, *sampler.size)
    state = sampler.start(batch, images=images, given=given, noise=noise)
    for rows in (2, None):
        sampler.draw(state, rows)
    return state.images, state.rows


def check(found, expected):
    assert torch.equal(found[0], expected[0])
    assert len(found[0].unique()) > 1
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)


def model_of(name):
    torch.manual_seed(0)
    kind, config = NETWORKS[name]
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Away from its near-uniform start.
            parameter.mul_(1.5)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_of_fixed_shapes_draw_the_same(name):
    model = model_of(name)
    # As on a GPU, whose graph is a call here.
    replayed = drawn(model, compiler=plain, capture=lambda step, *inputs: step)
    check(replayed, drawn(model))


@pytest.mark.parametrize(("name", "batch"), [("grey", 1), ("grey", 3), ("colours", 3)])
def test_traced_rows_draw_the_same(name, batch):
    model = model_of(name)
    check(drawn(model, batch, compiler=traced), drawn(model, batch))


def blocks_of(kind, compiler, block):
    torch.manual_seed(0)
    model = kind(21, (32, 40), torch.device("cpu"))
    with torch.no_grad():
        for edge in model.network().weights:
            edge.mul_(3)
    noise, network = model.noise(5), model.network()
    sampler = MaskedSampler(network, model.step, impl="reference")
    expected = sampler.draw(sampler.start(5), noise)
    return CompiledBlocks(network, model.step, compiler, block).draw(network, noise), expected


@pytest.mark.parametrize("block", [4, 7, 64])
@pytest.mark.parametrize("kind", [BernoulliMADE, MAFStep, SplineStep])
def test_blocks_of_one_shape_solve_the_same(kind, block):
    found, expected = blocks_of(kind, plain, block)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(found.unique(dim=0)) > 1


def test_traced_blocks_solve_the_same():
    found, expected = blocks_of(BernoulliMADE, traced, 8)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_compiled_columns_are_there_or_say_why(capsys):
    device, wanted = torch.device("cpu"), ("compile",)
    case = masked.batch_case(BernoulliMADE, 6, (8,), 2, device, wanted, "made")
    assert case.columns.keys() >= COMPILE_MODES.keys()
    case = pixels.pixelcnn_case(*NETWORKS["gated"], 2, device, wanted, "gated")
    assert case.columns.keys() >= COMPILE_MODES.keys()
    assert capsys.readouterr().out == ""

    case = pixels.pixelcnn_case(*NETWORKS["strides"], 2, device, wanted, "strides")
    assert not case.columns.keys() & COMPILE_MODES.keys()
    said = capsys.readouterr().out
    assert "strides: no compile_default: rows of several strides take minutes" in said


def test_a_torch_that_lacks_what_they_need_leaves_the_columns_out(monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda function, *, dynamic, fullgraph, options: function)
    device, wanted = torch.device("cpu"), ("compile",)
    cases = (
        masked.batch_case(BernoulliMADE, 6, (8,), 2, device, wanted, "made"),
        pixels.pixelcnn_case(*NETWORKS["gated"], 2, device, wanted, "gated"),
    )
    said = capsys.readouterr().out
    for case in cases:
        assert not case.columns.keys() & COMPILE_MODES.keys()
        assert f"{case.name}: no compile_default: torch " in said
