"""A VAE trains on real digits, alike on every implementation, compiled and under autocast."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgm_fast.families import VAE, VAEConfig, family_of
from dgm_fast.training import TrainConfig, train
from dgm_fast.training.data import load_digits
from dgm_fast.training.metrics import baselines_nats, mean_nll_nats
from dgm_fast.training.protocol import DensityModel, check_fit
from tests.families.gradients import loss_and_gradients

SMALL = VAEConfig((3, 4, 4), levels=5, latent_features=4, hidden=(16,), channels=(6, 8))
VARIANTS = {
    "bernoulli": SMALL,
    "categorical": replace(SMALL, output="categorical"),
    "logistic": replace(SMALL, output="logistic"),
    "gaussian": replace(SMALL, output="gaussian"),
    "conv": replace(SMALL, network="conv"),
    "labels": replace(SMALL, classes=3),
    "importance weights": replace(SMALL, training_samples=3),
    "flows": replace(SMALL, prior="flow", posterior="flow", flow_steps=2, flow_hidden=(8,)),
    "free bits": replace(SMALL, free_bits=0.1, beta=0.5),
}
every = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def example(config, batch=12):
    torch.manual_seed(1)
    x = torch.rand(batch, *config.event_shape)
    integers = (x * config.levels).floor()
    x = {"bernoulli": x.round(), "categorical": integers, "logistic": integers}.get(
        config.output, x
    )
    return (x, torch.randint(config.classes, (batch,))) if config.classes else (x,)


def make_model(config, **options):
    torch.manual_seed(0)
    return VAE(config, **options)


@pytest.mark.parametrize(
    ("binarization", "changes"),
    [
        ("static", {}),
        ("dynamic", {"network": "conv", "channels": (16, 32), "training_samples": 2}),
        ("none", {"output": "categorical"}),
        ("none", {"output": "logistic", "prior": "flow", "posterior": "flow"}),
    ],
    ids=["bernoulli", "conv, importance weights", "categorical", "logistic, flows"],
)
def test_beats_both_baselines_on_digits(tmp_path, binarization, changes):
    digits = load_digits(binarization)
    config = VAEConfig((8, 8), levels=17, latent_features=16, hidden=(128,), flow_hidden=(32,))
    model = make_model(replace(config, **changes))
    check_fit(model, digits)
    training = TrainConfig(
        epochs=20, batch_size=50, learning_rate=4e-3, warmup_steps=20, tensorboard=False
    )

    result = train(model, digits, training, tmp_path)

    best = VAE.from_pretrained(tmp_path)
    nats = mean_nll_nats(best, digits.test, samples=20)
    assert result.steps == 20 * 25
    assert nats < min(baselines_nats(digits).values())


def test_labels_reach_the_loss_through_training(tmp_path):
    digits = load_digits("static")
    model = make_model(VAEConfig((64,), latent_features=8, hidden=(64,), classes=10))
    training = TrainConfig(epochs=2, batch_size=100, tensorboard=False)

    train(model, digits, training, tmp_path)

    rows, labels = digits.split("test")
    right = mean_nll_nats(model, rows, labels, samples=5)
    wrong = mean_nll_nats(model, rows, (labels + 1) % 10, samples=5)
    assert right < wrong


def test_fits_the_training_loop():
    assert isinstance(make_model(SMALL), DensityModel)


@every
def test_saves_and_loads(tmp_path, config):
    model = make_model(config).eval()
    inputs = example(config)

    model.save_pretrained(tmp_path)
    loaded = VAE.from_pretrained(tmp_path)

    assert family_of(tmp_path) == "vae"
    assert loaded.config == config
    assert torch.equal(loaded.elbo(*inputs, seed=1), model.elbo(*inputs, seed=1))
    loaded.training_step_begin(3)
    assert loaded.loss(*inputs).isfinite()


def test_every_implementation_trains_alike(impl):
    """The kernel's noise equals the reference's up to the last bits of log and sin."""
    losses = {}
    for name in ("reference", impl):
        model = make_model(SMALL, impl=name)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
        (x,) = example(SMALL, batch=64)
        losses[name] = []
        torch.manual_seed(3)
        for _ in range(20):
            loss = model.loss(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.detach())

    assert losses["reference"][-1] < 0.98 * losses["reference"][0]
    torch.testing.assert_close(losses[impl], losses["reference"], rtol=1e-5, atol=0)


@every
def test_fullgraph_equals_eager(config):
    torch._dynamo.reset()
    model = make_model(config)
    inputs = example(config)
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)

    expected = loss_and_gradients(model, *inputs)
    actual = loss_and_gradients(model, *inputs, function=compiled)

    torch.testing.assert_close(actual, expected)


def test_warming_beta_up_does_not_recompile():
    torch._dynamo.reset()
    model = make_model(replace(SMALL, beta_warmup_steps=10))
    (x,) = example(SMALL)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model.loss, backend=counter, fullgraph=True)

    losses = []
    for step in (0, 5, 10):
        model.training_step_begin(step)
        torch.manual_seed(5)
        losses.append(compiled(x))
        torch.manual_seed(5)
        torch.testing.assert_close(losses[-1], model.loss(x))

    assert counter.frame_count == 1
    assert losses[0] < losses[1] < losses[2]


@every
def test_autocast(config):
    model = make_model(config)
    inputs = example(config)
    exact, exact_gradients = loss_and_gradients(model, *inputs)

    with torch.autocast("cpu", torch.bfloat16):
        assert model.encode(*inputs).mean.dtype is torch.bfloat16
        loss, gradients = loss_and_gradients(model, *inputs)
        likelihood = model.log_prob(*inputs, samples=2)

    assert loss.dtype is likelihood.dtype is torch.float32
    # 48 conditionals whose parameters, of order one, carry a few bfloat16 roundings each.
    assert abs(float((loss - exact).detach())) < 48 * 4 * 2**-8
    for ours, right in zip(gradients, exact_gradients, strict=True):
        assert ours.dtype is torch.float32
        assert float((ours - right).norm()) < 0.1 * float(right.norm()) + 1e-3


@every
def test_an_empty_batch(config):
    model = make_model(config)
    inputs = example(config, batch=0)

    assert model.elbo(*inputs).shape == (0,)
    assert model.log_prob(*inputs).shape == (0,)
    assert model.reconstruct(*inputs).shape == (0, *config.event_shape)


def test_moving_average_follows_the_weights_alone():
    model = make_model(replace(SMALL, beta_warmup_steps=10))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    (x,) = example(SMALL)
    model.training_step_begin(5)
    model.loss(x).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    average.update_parameters(model)

    average.module.eval()
    assert set(average.module.state_dict()) == set(model.state_dict())
    assert float(average.module.loss(x)) > float(average.module(x).reconstruction.mean())


def test_device_and_dtype_of_construction():
    on_meta = VAE(SMALL, device="meta", dtype=torch.float64)
    with torch.device("meta"):
        by_default = VAE(SMALL)

    assert {p.dtype for p in on_meta.parameters()} == {torch.float64}
    for model in (on_meta, by_default):
        assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"levels": 1}, "levels must be at least 2; got 1"),
        ({"latent_features": 0}, "latent_features must be at least 1; got 0"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"output": "poisson"}, "output must be one of bernoulli, .*; got 'poisson'"),
        ({"network": "rnn"}, "network must be one of mlp, conv; got 'rnn'"),
        ({"activation": "sine"}, "activation must be one of relu, .*; got 'sine'"),
        ({"hidden": (16, 0)}, r"hidden must hold positive sizes; got \(16, 0\)"),
        ({"event_shape": (3, -4)}, "event_shape must hold positive sizes"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
        ({"prior": "vamp"}, "prior must be one of gaussian, flow; got 'vamp'"),
        ({"prior": "flow", "latent_features": 1}, "latent_features must be at least 2 for a flow"),
        ({"free_bits": 0.1, "training_samples": 2}, "free_bits must be 0 without a KL of each"),
        ({"free_bits": 0.1, "posterior": "flow"}, "free_bits must be 0 without a KL of each"),
        ({"event_shape": ()}, r"event_shape must have at least one dim; got \(\)"),
        ({"network": "conv", "event_shape": (16,)}, r"event_shape must be \(H, W\)"),
        ({"network": "conv", "channels": ()}, r"event_shape must be \(H, W\)"),
        ({"network": "conv", "channels": (4, 4, 4)}, "channels must be few enough"),
    ],
)
def test_bad_configurations(changes, match):
    with pytest.raises(ValueError, match=match):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ((torch.zeros(2, 48),), r"x must have shape .* got \(2, 48\)"),
        ((torch.tensor(1.0),), r"x must have shape .* got \(\)"),
        ((torch.full((2, 3, 4, 4), 1.5),), r"x must hold values in \[0, 1\]"),
        ((torch.zeros(2, 3, 4, 4), torch.zeros(2).long()), "context must be labels of 0 classes"),
    ],
)
def test_bad_inputs(inputs, match):
    for method in ("forward", "elbo", "log_prob", "encode"):
        with pytest.raises(ValueError, match=match):
            getattr(make_model(SMALL), method)(*inputs)


@pytest.mark.parametrize(
    ("context", "error", "match"),
    [
        (None, ValueError, "context must be labels of 3 classes; got None"),
        (torch.zeros(2), TypeError, "context must be int64 labels"),
        (torch.zeros(3).long(), ValueError, r"context must have shape \(B,\) = \(2,\)"),
        (torch.tensor([0, 3]), ValueError, r"context must hold values in 0 \.\. 2; got 0 to 3"),
    ],
)
def test_bad_labels(context, error, match):
    model = make_model(VARIANTS["labels"])
    with pytest.raises(error, match=match):
        model.elbo(torch.zeros(2, 3, 4, 4), context)


def test_labels_that_do_not_broadcast_to_the_samples():
    model = make_model(VARIANTS["labels"])
    assert model.sample((4, 3), torch.arange(3)).shape == (4, 3, 3, 4, 4)
    with pytest.raises(ValueError, match=r"context must have dims that broadcast to shape = \(4,"):
        model.sample((4, 2), torch.arange(3))


@pytest.mark.parametrize("samples", [0, -1])
def test_bad_sample_counts(samples):
    (x,) = example(SMALL)
    for method in ("elbo", "log_prob"):
        with pytest.raises(ValueError, match=f"samples must be at least 1; got {samples}"):
            getattr(make_model(SMALL), method)(x, samples=samples)
