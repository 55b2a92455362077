"""Rows on tensors that stay are what the cached loop draws."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.sampling import PixelSampler
from dgm_fast.sampling.pixelcnn import graphed
from dgm_fast.sampling.pixelcnn.eager import EagerLoop
from dgm_fast.sampling.pixelcnn.graphed import GraphedLoop
from tests.families.pixel_models import small
from tests.sampling.pixel_cases import CONFIGS, LEVELS, each_config, model_of, start_of


class Called(GraphedLoop):
    """Rows that are called, not captured; the call that would warm up is made."""

    @staticmethod
    def capture(step, *inputs):
        step(*inputs)
        return step


def sampler_of(config, loop, dtype, device):
    network = model_of(config, dtype=dtype).to(device)._describe()
    sampler = PixelSampler(network, impl="reference")
    sampler._loop = loop(sampler._loop.plan, sampler.output, sampler.size)
    return sampler


def start(config, batch, dtype, device, *, around=True):
    """A state that a CPU and a GPU begin alike."""
    sampler = sampler_of(config, EagerLoop, dtype, "cpu")
    return start_of(sampler, config, batch, around=around).to(device)


def compare(config, loop, dtype=torch.float32, device="cpu"):
    graphed, eager = (sampler_of(config, each, dtype, device) for each in (loop, EagerLoop))
    whole, state = (start(config, 3, dtype, device) for _ in range(2))
    each = eager.output.parameters // eager.output.ordered_channels
    expected, found = (whole.noise.new_empty(3, eager.features, each) for _ in range(2))
    eager.draw(whole, parameters_out=expected)

    for rows in (1, 0, 2, None):
        graphed.draw(state, rows, parameters_out=found)
        if rows == 0:
            # Another batch lies between the rows.
            graphed.draw(start(config, 1, dtype, device), 1)
    assert torch.equal(state.images, whole.images)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(state.rows, whole.rows)
    assert int(state.done) == config.image_shape[1]


COLOURS = small("pixelcnn", (3, 2, 2), **LEVELS)


@pytest.mark.parametrize("config", [COLOURS, CONFIGS["gated"], CONFIGS["one row"]])
def test_rows_on_tensors_that_stay_are_what_the_loop_draws(config):
    compare(config, Called, torch.float64)


@pytest.mark.parametrize(("name", "kinds"), [("gated of large kernels", 1), ("pp", 2)])
def test_rows_of_one_kind_are_one_graph(name, kinds):
    config, images = CONFIGS[name], []
    for loop in (EagerLoop, Called):
        sampler = sampler_of(config, loop, torch.float64, "cpu")
        state = start(config, 2, torch.float64, "cpu", around=False)
        images.append(sampler.draw(state).images)
    assert torch.equal(*images)
    assert len(sampler._loop._rows.replays) == kinds


def test_a_batch_that_was_not_captured_harms_no_other(monkeypatch):
    sampler = sampler_of(COLOURS, Called, torch.float64, "cpu")
    expected, found, other = (
        start(COLOURS, batch, torch.float64, "cpu", around=False) for batch in (1, 1, 2)
    )
    sampler.draw(expected)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(graphed, "GraphedRows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sampler.draw(other)
    assert torch.equal(sampler.draw(found).images, expected.images)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_config
def test_a_captured_row_is_what_the_loop_draws(config, dtype):
    compare(config, GraphedLoop, dtype, "cuda")


@pytest.mark.gpu
def test_a_gpu_without_the_kernel_replays_graphs():
    model = model_of(CONFIGS["gated"]).double().cuda()
    assert isinstance(model.sampler()._loop, GraphedLoop)
