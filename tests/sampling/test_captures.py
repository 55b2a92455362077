"""Steps that a GPU replays as CUDA graphs do nothing that may not be captured."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from dgm_fast.sampling import RecurrentSampler
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.masked_mlp.graphed import GraphedBlocks
from dgm_fast.sampling.pixelcnn.graphed import GraphedLoop as GraphedPixels
from dgm_fast.sampling.wavenet.graphed import GraphedLoop as GraphedWaves
from tests.families.sequence_models import VARIANTS, labels, make_model
from tests.sampling import test_pixel_graphed, test_wavenet_graphed
from tests.sampling.captures import watched, without_data
from tests.sampling.masked_cases import SHAPES, STEPS, make_network
from tests.sampling.pixel_cases import CONFIGS, each_config
from tests.sampling.test_recurrent_graphed import RECURRENT
from tests.sampling.wavenet_cases import each_config as each_wavenet


class Pixels(GraphedPixels):
    capture = staticmethod(watched)


class Waves(GraphedWaves):
    capture = staticmethod(watched)


class Blocks(GraphedBlocks):
    capture = staticmethod(watched)


def watch_rows(config, **filters):
    sampler = test_pixel_graphed.sampler_of(config, Pixels, torch.float32, "cpu")
    state = test_pixel_graphed.start(config, 2, torch.float32, "cpu")
    each = sampler.output.parameters // sampler.output.ordered_channels
    parameters = state.noise.new_empty(2, sampler.features, each)
    loop, state, parameters = without_data((sampler._loop, state, parameters))
    height, width = sampler.size
    kinds = max(place.stride for place in loop.plan.places)
    for row in range(min(height, kinds)):
        loop.draw_row(state, row, [False] * width, Filters(**filters), parameters)
        assert len(loop._rows.replays) == row + 1


@each_config
def test_a_row_of_pixels_may_be_captured(config):
    watch_rows(config)


@pytest.mark.parametrize("filters", [{"temperature": 0.0}, {"top_k": 3, "top_p": 0.8}], ids=str)
def test_a_row_of_filtered_pixels_may_be_captured(filters):
    watch_rows(CONFIGS["pixelcnn of levels upside down"], **filters)


@each_wavenet
def test_a_step_of_a_wavenet_may_be_captured(config):
    (sampler, _), label, local = test_wavenet_graphed.make_samplers(
        config, Waves, torch.float32, "cpu"
    )
    state, noise = sampler.start(3, label), sampler.draw_noise(3, 2)
    local = None if local is None else local[..., :2]
    given = torch.zeros(3, 2, dtype=torch.int64)
    loop, state, noise, given, local = without_data((sampler._loop, state, noise, given, local))
    loop.go_on(state, given, None, local, Filters(), None)
    leaves_out = [{"top_k": 2, "top_p": 0.7}] if config.output == "categorical" else []
    for filters in [{}, {"temperature": 0.0}, *leaves_out]:
        loop.go_on(state, None, noise, local, Filters(**filters), None)
    assert set(loop._steps.replays) == {None, Filters(**filters)}


@pytest.mark.parametrize("name", ["transformer", "transformer, rotary", "transformer, labels"])
def test_a_step_of_a_transformer_may_be_captured(name):
    sampler = make_model(VARIANTS[name]).sampler(mode="eager")
    memory = sampler.start(3, labels(VARIANTS[name], 3)).memory
    token, place = torch.tensor([0, 2, 1]), torch.tensor(4)
    sampler, cache, *inputs = without_data((sampler, memory.cache, token, place))
    watched(partial(sampler._step_of, cache=cache), *inputs)


@pytest.mark.parametrize("config", RECURRENT.values(), ids=RECURRENT)
def test_a_step_of_a_recurrent_network_may_be_captured(config):
    sampler = RecurrentSampler(make_model(config).described(), impl="reference")
    memory = sampler.start(3, labels(config, 3)).memory
    sampler, *inputs = without_data((sampler, torch.tensor([0, 2, 1]), *memory.kept))
    watched(sampler._step, *inputs)


@pytest.mark.parametrize(
    ("shape", "step"), [("residual", "filtered"), *(("direct", step) for step in STEPS)]
)
def test_passes_of_a_masked_network_may_be_captured(shape, step):
    step = STEPS[step]
    network, _ = make_network(SHAPES[shape], step.parameters)
    blocks = without_data(Blocks(network, torch.float32, 16))
    assert blocks.passes_of(16, step).x.is_meta


X = torch.zeros(3, 4, device="meta")
MASK = X > 0
FORBIDDEN = {
    "a list as an index": (lambda x: x[:, [0, 2]], "copied from the host"),
    "numbers": (lambda x: x + x.new_tensor([1.0] * 4), "copied from the host"),
    "a place on a host": (lambda x: x.index_select(1, torch.tensor([1])), "mixes"),
    "a tensor of a host": (
        lambda x: torch.stack([x, torch.zeros(3, 4)]),
        "not on the expected device",
    ),
    "a copy to a GPU": (lambda x: x + torch.zeros(4).to(x.device), "copies"),
    "a copy of one number": (lambda x: x[0, 0].copy_(torch.tensor(1.0)), "copies"),
    "a copy to a host": (lambda x: x.cpu(), "no data"),
    "a number": (lambda x: x.sum().item(), "cannot be called on meta"),
    "a choice": (lambda x: x if x.sum() > 0 else -x, "cannot be called on meta"),
    "what a mask leaves": (lambda x: x[MASK], "nonzero"),
    "a mask of values": (lambda x: x.index_put_((MASK,), x[0, :1]), "waits"),
}


@pytest.mark.parametrize(("step", "why"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_may_not_be_captured_is_found(step, why):
    with pytest.raises((AssertionError, RuntimeError), match=why):
        watched(step, X.clone())
