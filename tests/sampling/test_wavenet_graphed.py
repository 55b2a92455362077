"""A step on tensors that stay draws what the cached loop draws."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.sampling import WaveNetSampler
from dgm_fast.sampling.wavenet import graphed
from dgm_fast.sampling.wavenet.eager import EagerLoop
from dgm_fast.sampling.wavenet.graphed import GraphedLoop
from tests.families.wavenet_models import VARIANTS, make_model
from tests.sampling.wavenet_cases import T, conditions, each_config, of


class Called(GraphedLoop):
    """Steps that are called, not captured; the call that would warm up is made."""

    @staticmethod
    def capture(step, *inputs):
        step(*inputs)
        return step


def make_samplers(config, loop, dtype, device):
    model = make_model(config).to(dtype)
    label, local, _ = conditions(config, model, 3)
    network, samplers = model.to(device).sampler().network, []
    for kind in (loop, EagerLoop):
        samplers.append(WaveNetSampler(network, model.output, impl="reference"))
        samplers[-1]._loop = kind(samplers[-1].network, model.output)
    return samplers, *(None if each is None else each.to(device) for each in (label, local))


def compare(config, loop, dtype=torch.float32, device="cpu"):
    (graphed, eager), label, local = make_samplers(config, loop, dtype, device)
    noise = graphed.draw_noise(3, T)
    expected, found = (noise.new_empty(3, T, graphed.output.parameters) for _ in range(2))
    whole, at_the_end = eager.draw(
        eager.start(3, label), noise=noise, features=local, parameters_out=expected
    )

    state, done, levels = graphed.start(3, label), 0, []
    for length in (1, 0, 12, T - 13):
        times = slice(done, done + length)
        options = {"noise": noise[:, times], "features": of(local, times)}
        if length == 12:
            # Levels that are given lie between those that are drawn, and another batch as well.
            alone = None if label is None else label[:1]
            one = None if local is None else local[:1, :, :1]
            graphed.draw(graphed.start(1, alone), noise=noise[:1, :1], features=one)
            state = graphed.feed(state, whole[:, times], of(local, times))
            levels.append(whole[:, times])
            found[:, times] = expected[:, times]
        else:
            drawn, state = graphed.draw(state, parameters_out=found[:, times], **options)
            levels.append(drawn)
        done = times.stop
    assert torch.equal(torch.cat(levels, dim=1), whole)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(state.rings, at_the_end.rings)
    assert torch.equal(state.recent, at_the_end.recent)
    assert state.time == T
    # A step that draws, and one that takes levels.
    assert len(graphed._loop._steps.replays) == 2


@each_config
def test_steps_on_tensors_that_stay_draw_what_the_loop_draws(config):
    compare(config, Called, torch.float64)


def test_a_batch_that_was_not_captured_harms_no_other(monkeypatch):
    (sampler, _), *_ = make_samplers(VARIANTS["categorical"], Called, torch.float64, "cpu")
    whole, noise = sampler.start(1), sampler.draw_noise(2, 8)
    expected, _ = sampler.draw(whole, noise=noise[:1])
    with monkeypatch.context() as patch:
        patch.setattr(graphed, "GraphedSteps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sampler.draw(sampler.start(2), noise=noise)
    assert torch.equal(sampler.draw(sampler.start(1), noise=noise[:1])[0], expected)


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_config
def test_a_captured_step_draws_what_the_loop_draws(config, dtype):
    if config.levels > 256 and dtype == torch.float32:
        pytest.skip("65536 levels lie closer than float32 tells apart")
    compare(config, GraphedLoop, dtype, "cuda")


@pytest.mark.gpu
def test_a_gpu_without_the_kernel_replays_graphs():
    model = make_model(VARIANTS["categorical"]).double().cuda()
    assert isinstance(model.sampler()._loop, GraphedLoop)
