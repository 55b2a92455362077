"""WaveNets train, alike on every implementation, compiled, under autocast and in parallel."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgm_fast.families import WaveNet, family_of
from dgm_fast.training import bits_per_dim, load_dataset, train
from dgm_fast.training.metrics import baselines_nats, mean_nll_nats
from dgm_fast.training.protocol import DensityModel
from dgm_fast.training.recipes import find_recipe
from tests.families.wavenet_models import VARIANTS, condition_of, example, make_model, small

variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def loss_and_gradients(model, inputs, function=None):
    loss = (function or model.loss)(**inputs)
    return loss, torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.slow
def test_the_recipe_beats_both_baselines_on_vowels(tmp_path):
    recipe = find_recipe("wavenet", "vowels")
    vowels = load_dataset(recipe.data)
    torch.manual_seed(0)
    model = WaveNet(recipe.model)

    # Two of its three epochs, which leave it a quarter of a bit worse.
    training = replace(recipe.train, epochs=2, tensorboard=False, device="cpu")
    train(model, vowels, training, tmp_path)

    best = WaveNet.from_pretrained(tmp_path)
    bits = bits_per_dim(mean_nll_nats(best, *vowels.split("test")), vowels)
    others = {name: bits_per_dim(nats, vowels) for name, nats in baselines_nats(vowels).items()}
    assert bits < others["linear prediction"] - 0.1 < others["histogram of samples"]
    # It has learnt which vowel is which: another one's label costs bits.
    rows, labels = vowels.split("test")
    wrong = bits_per_dim(mean_nll_nats(best, rows, (labels + 1) % 5), vowels)
    assert wrong > bits + 0.05


@variants
def test_fits_the_training_loop(config):
    assert isinstance(make_model(config), DensityModel)


@variants
def test_loss_is_the_mean_negative_log_likelihood(config):
    model, inputs = make_model(config), example(config)
    assert torch.equal(model.loss(**inputs), -model.log_prob(**inputs).mean())
    assert model.log_prob(**inputs).shape == (6,)


@variants
def test_every_parameter_has_a_finite_gradient(config):
    model, inputs = make_model(config), example(config)
    _, gradients = loss_and_gradients(model, inputs)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert gradient.shape == parameter.shape
        assert bool(gradient.isfinite().all()), name
        assert bool((gradient != 0).any()), name


def test_gradients_of_a_deep_model_stay_in_bounds():
    """Fifty layers as they are initialised: no layer's gradient is a thousandth of another's."""
    torch.manual_seed(0)
    config = small(stacks=10, layers=5, channels=16, gate_channels=16)
    model, inputs = WaveNet(config), example(config, length=200)
    model.loss(**inputs).backward()
    norms = torch.stack([layer.conv.weight.grad.norm() for layer in model.layers])
    assert float(norms.max() / norms.min()) < 30
    stream = model.first(model._encode(model.quantizer.encode(inputs["x"])))
    last = stream
    for layer in model.layers:
        last, _ = layer(last, None, None)
    assert 0.8 < (last.std() / stream.std()).item() < 1.5


@variants
def test_gradients_are_those_of_differences(config):
    model, inputs = make_model(config).double(), example(config, batch=2, dtype=torch.float64)
    _, gradients = loss_and_gradients(model, inputs)
    generator, step = torch.Generator().manual_seed(0), 1e-6
    with torch.no_grad():
        for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            losses = []
            for sign in (1, -2):
                parameter.add_(direction, alpha=sign * step)
                losses.append(model.loss(**inputs))
            parameter.add_(direction, alpha=step)
            expected = (losses[0] - losses[1]) / (2 * step)
            actual = (gradient * direction).sum()
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, msg=name)


@variants
def test_saves_and_loads(tmp_path, config):
    model, inputs = make_model(config), example(config)

    model.save_pretrained(tmp_path)
    loaded = WaveNet.from_pretrained(tmp_path, impl="reference")

    assert family_of(tmp_path) == "wavenet"
    assert loaded.config == config
    assert loaded.impl == "reference"
    torch.testing.assert_close(loaded.log_prob(**inputs), model.log_prob(**inputs))
    content = json.loads((tmp_path / "config.json").read_text())
    assert set(content["config"]) == set(vars(config))


@variants
def test_every_implementation_trains_alike(config, impl):
    inputs, losses = example(config, length=70), {}
    for name in ("reference", impl):
        torch.manual_seed(0)
        model = WaveNet(config, impl=name)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        losses[name] = []
        for _ in range(6):
            loss = model.loss(**inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.detach())

    assert losses["reference"][-1] < losses["reference"][0]
    torch.testing.assert_close(losses[impl], losses["reference"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["labels", "both", "mixture of 256", "mixture of 65536"])
def test_fullgraph_equals_eager(name):
    torch._dynamo.reset()
    model, inputs = make_model(VARIANTS[name]), example(VARIANTS[name])
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)

    expected = loss_and_gradients(model, inputs)
    actual = loss_and_gradients(model, inputs, function=compiled)

    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@variants
def test_autocast_keeps_likelihoods_in_float32(config):
    torch.manual_seed(0)
    model, inputs = WaveNet(config), example(config)
    exact, _ = loss_and_gradients(model, inputs)

    with torch.autocast("cpu", torch.bfloat16):
        assert model(**inputs).dtype is torch.bfloat16
        loss, gradients = loss_and_gradients(model, inputs)

    assert loss.dtype is torch.float32
    assert all(g.dtype is torch.float32 and bool(g.isfinite().all()) for g in gradients)
    # Parameters carry a few bfloat16 roundings each into a sum over samples.
    torch.testing.assert_close(loss, exact, rtol=4 * 2**-8, atol=0)


@variants
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(config, way):
    model, inputs = make_model(config), example(config)
    expected = model.log_prob(**inputs)

    if way == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)

    assert torch.equal(twin.log_prob(**inputs), expected)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert torch.equal(model.log_prob(**inputs), expected)


def test_an_average_of_the_weights_is_a_model():
    config = VARIANTS["labels"]
    model, inputs = make_model(config), example(config)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)

    assert torch.equal(average.module.log_prob(**inputs), model.log_prob(**inputs))
    assert average.module.sample(2, torch.tensor(1), length=4).shape == (2, 4)


@variants
def test_device_and_dtype_of_construction(config):
    on_meta = WaveNet(config, device="meta", dtype=torch.float64)
    with torch.device("meta"):
        by_default = WaveNet(config)

    assert {p.dtype for p in on_meta.parameters()} == {torch.float64}
    for model in (on_meta, by_default):
        assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}


def test_the_state_dict_is_the_same_for_all_implementations():
    for config in VARIANTS.values():
        names = [list(make_model(config, impl=impl).state_dict()) for impl in ("auto", "reference")]
        assert names[0] == names[1]
        assert all(name.endswith(("weight", "bias")) for name in names[0])


class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, **condition):
        return self.model.loss(x, **condition)


def test_wrapped_for_parallel_training_it_trains_on(tmp_path):
    """DistributedDataParallel refuses a second step where a parameter had no gradient."""
    config = VARIANTS["both"]
    model, inputs = make_model(config), example(config)
    expected = loss_and_gradients(model, inputs)[1]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(Loss(model))
        for _ in range(2):
            model.zero_grad()
            parallel(inputs["x"], **condition_of(inputs)).backward()
        actual = [parameter.grad for parameter in model.parameters()]
        del parallel
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(actual, list(expected))
