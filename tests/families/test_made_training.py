"""A MADE trains: alike on every implementation, compiled, under autocast and distributed."""

from __future__ import annotations

import copy
import functools
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgm_fast._core import extension
from dgm_fast.families import MADE, MADEConfig
from dgm_fast.ops.masked_linear.op import choose
from tests.processes import run_two

HERE = Path(__file__).parent
BATCH = 192
OUTPUTS = ["bernoulli", "categorical", "logistic", "gaussian", "gaussian_mixture"]
SMALL = MADEConfig(9, (16, 16), categories=4, components=3)
CYCLED = replace(SMALL, order="random", num_masks=3, random_connectivity=True, direct=True)


def example(config, batch=12):
    torch.manual_seed(1)
    x = torch.rand(batch, config.features)
    integers = (x * config.categories).floor()
    x = {"bernoulli": x.round(), "categorical": integers, "logistic": integers}.get(
        config.output, x
    )
    return (x, torch.randn(batch, config.context_features)) if config.context_features else (x,)


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


def layers_and_masks(model):
    """Every masked layer with its mask in every set."""
    layers = [*model.layers, *([model.direct] if model.config.direct else [])]
    return [pair for masks in model.mask_sets for pair in zip(layers, masks, strict=True)]


@functools.cache
def curve(config, impl, dtype, steps=20):
    torch.manual_seed(0)
    model = MADE(config, impl=impl).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    x = (torch.rand(steps, BATCH, config.features) < torch.rand(config.features)).to(dtype)

    losses = []
    for step in range(steps):
        model.training_step_begin(step)
        loss = model.loss(x[step])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("impl", ["auto", "cpp"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"order": "random", "num_masks": 3, "random_connectivity": True, "direct": True}],
    ids=["natural", "cycled masks"],
)
def test_every_implementation_gives_the_same_training_curve(changes, impl):
    if extension.cpp_missing is not None:
        pytest.skip(f"only the reference can run: {extension.cpp_missing}")

    config = MADEConfig(256, (512, 512), **changes)
    for layer, mask in layers_and_masks(MADE(config)):
        x = torch.empty(BATCH, layer.in_features)
        assert choose(impl, x, layer.weight, mask) == "cpp"

    exact = curve(config, "reference", torch.float64)
    reference = curve(config, "reference", torch.float32)
    ours = curve(config, impl, torch.float32)

    # Both float32 runs round differently at every step and both drift from the float64 one; ours
    # may drift a few times as far, and by a few roundings of the loss itself.
    budget = 4 * (reference - exact).abs().max() + 4 * 2**-24 * exact.abs().max()
    assert exact[-1] < 0.95 * exact[0]
    assert float((ours - exact).abs().max()) < float(budget)


@pytest.mark.parametrize("output", OUTPUTS)
def test_fullgraph_equals_eager(output):
    torch._dynamo.reset()
    config = replace(CYCLED, hidden=(16,), num_masks=2, context_features=2)
    model = MADE(replace(config, output=output))
    inputs = example(model.config)
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)

    expected, loss = model.loss(*inputs), compiled(*inputs)

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected))

    model.eval()
    torch.testing.assert_close(compiled(*inputs), model.loss(*inputs))


def test_cycling_masks_does_not_recompile():
    torch._dynamo.reset()
    model = MADE(replace(CYCLED, hidden=(16,), num_masks=20))
    (x,) = example(model.config)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model.loss, backend=counter, fullgraph=True)

    for step in range(20):
        model.training_step_begin(step)
        torch.testing.assert_close(compiled(x), model.loss(x))

    # The first call finds the masks not yet converted to the dtype, the later ones do.
    assert counter.frame_count <= 2


def test_training_cycles_the_sets_by_the_step_alone():
    model = MADE(CYCLED)
    (x,) = example(CYCLED)

    def loss_at(step):
        model.training_step_begin(step)
        return model.loss(x).item()

    losses = [loss_at(step) for step in range(6)]
    assert losses[:3] == losses[3:]
    assert len(set(losses)) == 3
    assert loss_at(4) == losses[1]


def test_evaluation_does_not_depend_on_the_active_set():
    model = MADE(CYCLED).eval()
    (x,) = example(CYCLED)
    expected = model.log_prob(x)

    model.training_step_begin(1)

    assert torch.equal(model.log_prob(x), expected)


def test_dropout_acts_in_training_only():
    model = MADE(replace(SMALL, dropout=0.5))
    (x,) = example(SMALL)

    assert not torch.equal(model.log_prob(x), model.log_prob(x))
    model.eval()
    assert torch.equal(model.log_prob(x), model.log_prob(x))


@pytest.mark.parametrize("output", OUTPUTS)
def test_autocast(output):
    torch.manual_seed(0)
    model = MADE(replace(SMALL, output=output))
    (x,) = example(model.config)
    exact = model.log_prob(x)

    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype is torch.bfloat16
        log_prob = model.log_prob(x)
    log_prob.mean().backward()

    assert log_prob.dtype is torch.float32
    # Nine conditionals whose parameters, of order one, carry a few bfloat16 roundings each.
    torch.testing.assert_close(log_prob, exact, atol=9 * 4 * 2**-8, rtol=0)
    assert all(p.grad.dtype is torch.float32 for p in model.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    "activation", ["relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh"]
)
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(way, activation):
    model = MADE(replace(CYCLED, activation=activation))
    (x,) = example(CYCLED)
    model.training_step_begin(1)
    expected = model.loss(x)

    if way == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)

    assert torch.equal(twin.loss(x), expected)
    twin.double()
    twin.training_step_begin(2)
    assert twin.loss(x).dtype is torch.float64
    assert torch.equal(model.loss(x), expected)


def test_double_keeps_the_active_set():
    model = MADE(CYCLED)
    (x,) = example(CYCLED)
    model.training_step_begin(1)
    before = model.loss(x)

    model.double()

    torch.testing.assert_close(model.loss(x).float(), before)


def test_moving_average_leaves_the_masks_alone():
    model = MADE(CYCLED)
    (x,) = example(CYCLED)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    masks = {name: buffer.clone() for name, buffer in average.module.named_buffers()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    for step in range(5):
        model.training_step_begin(step)
        model.loss(x).backward()
        optimizer.step()
        average.update_parameters(model)

    assert len(masks) > 9
    for name, buffer in average.module.named_buffers():
        assert torch.equal(buffer, masks[name]), name


def test_state_dict_holds_parameters_alone_and_is_the_same_for_all_implementations():
    names = [
        "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias",
        "layers.2.weight", "layers.2.bias", "direct.weight",
    ]  # fmt: skip
    for impl in ("auto", "reference", "triton"):
        assert sorted(MADE(CYCLED, impl=impl).state_dict()) == sorted(names)


def test_device_and_dtype_of_construction():
    on_meta = MADE(SMALL, device="meta", dtype=torch.float64)
    with torch.device("meta"):
        by_default = MADE(SMALL)

    for model in (on_meta, by_default):
        tensors = [*model.parameters(), *model.buffers()]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {p.dtype for p in on_meta.parameters()} == {torch.float64}


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo backend")
def test_two_processes_equal_one(tmp_path):
    run_two(HERE / "ddp_worker.py", tmp_path)
    alone, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", 0, 1))

    assert any(name.endswith(".grad") for name in alone)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        # The mean over 8 rows against the mean of two means over 4, four steps long.
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)
