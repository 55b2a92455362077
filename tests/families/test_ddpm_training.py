"""Diffusion models train on real digits, alike on every implementation, compiled and averaged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgm_fast.families import DDPM, DDPMConfig, family_of
from dgm_fast.training import TrainConfig, train
from dgm_fast.training.data import load_digits
from dgm_fast.training.metrics import baselines_nats, mean_nll_nats
from dgm_fast.training.protocol import DensityModel, check_fit
from tests.families.gradients import loss_and_gradients

SMALL = DDPMConfig(
    (1, 6, 6), levels=5, timesteps=8, schedule="cosine", channels=8, multipliers=(1, 2), blocks=1
)
VARIANTS = {
    "simple": SMALL,
    "bound": replace(SMALL, loss="bound", schedule="log_snr"),
    "velocity": replace(SMALL, target="velocity", schedule="linear"),
    "x0, uniform times": replace(SMALL, target="x0", times="uniform"),
    "real values": replace(SMALL, levels=None, loss="bound", variance="large"),
    "labels": replace(SMALL, classes=3),
    "attention": replace(SMALL, attention=(1,), heads=2, patch=2, fourier=1),
}
every = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def make_model(config, **options):
    """A model some way from the zero that it begins as."""
    torch.manual_seed(0)
    model = DDPM(config, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def example(config, batch=12):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *config.event_shape, generator=generator)
    if config.levels is not None:
        x = torch.randint(config.levels, x.shape, generator=generator).float()
    return (x, torch.arange(batch) % config.classes) if config.classes else (x,)


@pytest.mark.parametrize(
    "changes",
    [{"loss": "bound"}, {"loss": "simple", "target": "velocity", "classes": 10}],
    ids=["bound", "simple, labels"],
)
def test_beats_both_baselines_on_digits(tmp_path, changes):
    digits = load_digits("none")
    config = DDPMConfig(
        (8, 8), levels=17, timesteps=100, schedule="log_snr", channels=16, multipliers=(1,),
        blocks=1, fourier=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = DDPM(replace(config, **changes))
    check_fit(model, digits)
    training = TrainConfig(
        epochs=10,
        batch_size=32,
        learning_rate=8e-3,
        warmup_steps=20,
        ema_decay=0.95,
        tensorboard=False,
        device="cpu",
    )

    result = train(model, digits, training, tmp_path)

    best = DDPM.from_pretrained(tmp_path)
    nats = mean_nll_nats(best, *digits.split("test"))
    assert result.steps == 10 * 40
    assert nats < min(baselines_nats(digits).values())
    # The estimate by which epochs are compared is of the same figure.
    assert mean_nll_nats(best, *digits.split("test"), quick=True) == pytest.approx(nats, rel=0.1)

    context = torch.arange(20) % 10 if config.classes else None
    samples = best.sample(20, context, sampler="ddim", steps=20)
    assert samples.shape == (20, 8, 8)
    # The border columns of the digits are empty, the middle is inked: noise has neither.
    assert float(samples[:, :, 0].mean()) < 1 < 4 < float(samples[:, 2:6, 2:6].mean())


def test_fits_the_training_loop():
    assert isinstance(make_model(SMALL), DensityModel)


@every
def test_saves_and_loads(tmp_path, config):
    model = make_model(config).eval()
    inputs = example(config)

    model.save_pretrained(tmp_path)
    loaded = DDPM.from_pretrained(tmp_path)

    assert family_of(tmp_path) == "ddpm"
    assert loaded.config == config
    assert torch.equal(
        loaded.bound_terms(*inputs, generator=torch.Generator().manual_seed(1)).total_nats,
        model.bound_terms(*inputs, generator=torch.Generator().manual_seed(1)).total_nats,
    )


def test_every_implementation_trains_alike(impl):
    """The kernel's noise equals the reference's up to the last bits of log and sin."""
    losses = {}
    for name in ("reference", impl):
        torch.manual_seed(0)
        model = DDPM(SMALL, impl=name)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        (x,) = example(SMALL, batch=64)
        losses[name] = []
        torch.manual_seed(3)
        for _ in range(20):
            loss = model.loss(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.detach())

    assert losses["reference"][-1] < 0.95 * losses["reference"][0]
    torch.testing.assert_close(losses[impl], losses["reference"], rtol=1e-5, atol=0)


# The others are alike but for arguments of ops, which are compiled with each of theirs elsewhere.
@pytest.mark.parametrize(
    "name", ["bound", "x0, uniform times", "real values", "labels", "attention"]
)
def test_fullgraph_equals_eager(name):
    torch._dynamo.reset()
    config = VARIANTS[name]
    model, inputs = make_model(config), example(config)
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)

    expected = loss_and_gradients(model, *inputs)
    actual = loss_and_gradients(model, *inputs, function=compiled)

    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@every
def test_autocast_keeps_losses_and_terms_in_float32(config):
    model = make_model(config)
    inputs = example(config)
    exact, _ = loss_and_gradients(model, *inputs)

    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = loss_and_gradients(model, *inputs)
        terms = model.bound_terms(*inputs)

    assert {loss.dtype, terms.total_nats.dtype} == {torch.float32}
    assert all(g.dtype is torch.float32 and bool(g.isfinite().all()) for g in gradients)
    # Activations carry a few bfloat16 roundings each into a mean of squares.
    torch.testing.assert_close(loss, exact, rtol=4 * 2**-8, atol=0)


@every
def test_an_empty_batch(config):
    model = make_model(config).eval()
    inputs = example(config, batch=0)

    assert model.log_prob(*inputs).shape == (0,)
    assert model.validation_nats(*inputs).shape == (0,)
    assert model.sample(0, *inputs[1:]).shape == (0, *config.event_shape)


def test_an_average_of_the_weights_is_a_model():
    """Its tables are those of the schedule, whatever the average does to weights."""
    model = make_model(SMALL)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    average.update_parameters(model)
    (x,) = example(SMALL)
    model.loss(x).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    average.update_parameters(model)

    twin = average.module
    for name, p in twin.named_parameters():
        torch.testing.assert_close(p, 0.5 * before[name] + 0.5 * model.get_parameter(name))
    assert torch.equal(twin.schedule.alpha, model.schedule.alpha)
    assert twin.eval().sample(2).shape == (2, 1, 6, 6)


class Labels(nn.Module):
    """Notes the labels that reach the network."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x_t, t, label=None):
        self.seen.append(label)
        return torch.zeros_like(x_t)


def test_labels_are_dropped_in_training_alone_and_in_their_share():
    config = replace(VARIANTS["labels"], label_dropout=0.25)
    model = DDPM(config, network=Labels())
    x, labels = example(config, batch=4000)

    model.loss(x, labels)
    model.eval().loss(x, labels)
    model.train().loss(x)

    trained, evaluated, without = model.network.seen
    dropped = trained == 3
    assert torch.equal(trained[~dropped], labels[~dropped])
    # Five standard errors of a share of 4000.
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=5 * (0.1875 / 4000) ** 0.5)
    assert torch.equal(evaluated, labels)
    assert bool((without == 3).all())


def test_device_and_dtype_of_construction():
    on_meta = DDPM(SMALL, device="meta", dtype=torch.float64)

    assert {p.dtype for p in on_meta.parameters()} == {torch.float64}
    assert {t.device.type for t in (*on_meta.parameters(), *on_meta.buffers())} == {"meta"}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"event_shape": ()}, r"event_shape must hold positive sizes; got \(\)"),
        ({"event_shape": (0, 4)}, "event_shape must hold positive sizes"),
        ({"levels": 1}, "levels must be at least 2, or None; got 1"),
        ({"classes": -1}, "classes must be at least 0; got -1"),
        ({"timesteps": 0}, "timesteps must be at least 1; got 0"),
        ({"schedule": "sigmoid"}, "schedule must be one of linear, cosine, log_snr"),
        ({"target": "score"}, "target must be one of"),
        ({"variance": "learned"}, "variance must be one of small, large"),
        ({"loss": "huber"}, "loss must be one of simple, bound"),
        ({"times": "sobol"}, "times must be one of stratified, uniform"),
        ({"multipliers": ()}, "multipliers must hold positive integers"),
        ({"attention": (2,)}, r"attention must hold levels in 0 \.\. 1; got \(2,\)"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
        ({"label_dropout": -0.1}, r"label_dropout must be in \[0, 1\); got -0.1"),
        ({"schedule": "log_snr", "levels": None}, "first_log_snr must be given for real values"),
        (
            {"schedule": "log_snr", "last_log_snr": 20.0},
            "first_log_snr must be above last_log_snr",
        ),
    ],
)
def test_bad_configurations(changes, match):
    with pytest.raises(ValueError, match=match):
        replace(SMALL, **changes)


def test_bad_inputs():
    model, labelled = make_model(SMALL), make_model(VARIANTS["labels"])
    x = torch.zeros(2, 1, 6, 6)
    for method in ("loss", "log_prob", "validation_nats"):
        with pytest.raises(ValueError, match=r"x must have shape .* got \(2, 36\)"):
            getattr(model, method)(torch.zeros(2, 36))
        with pytest.raises(ValueError, match=r"x must hold values in 0 \.\. 4; got 5"):
            getattr(model, method)(torch.full_like(x, 5))
        with pytest.raises(ValueError, match="context must be None without classes"):
            getattr(model, method)(x, torch.zeros(2).long())
        with pytest.raises(TypeError, match="context must be int64 labels"):
            getattr(labelled, method)(x, torch.zeros(2))
