"""Flows train, save, load and sample, under autocast, compiled, reversibly and given labels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgm_fast.families import FAMILIES, NICE, Glow, GlowConfig, NICEConfig, RealNVP, RealNVPConfig
from dgm_fast.families.flows.chain import Chain
from dgm_fast.layers import ActNorm
from dgm_fast.training.data import load_digits
from dgm_fast.training.metrics import baselines_nats, mean_nll_nats

DIGITS = {"event_shape": (1, 8, 8), "levels": 17, "logit_alpha": 0.05}
MODELS = {
    "nice": (NICE, NICEConfig(**DIGITS, hidden=(128, 128)), 30, 1e-2),
    "realnvp": (RealNVP, RealNVPConfig(**DIGITS, hidden=24, blocks=1, squeezed=True), 10, 5e-3),
    "glow": (Glow, GlowConfig(**DIGITS, hidden=24, steps=3), 12, 5e-3),
}
TINY = {
    "nice": (NICE, NICEConfig((6,), hidden=(8,))),
    "realnvp": (RealNVP, RealNVPConfig((1, 4, 4), levels=4, hidden=4, blocks=1)),
    "glow": (Glow, GlowConfig((1, 4, 4), levels=4, hidden=4, steps=2)),
    "classes": (
        Glow,
        GlowConfig((1, 4, 4), levels=4, hidden=4, steps=1, classes=3, context_features=5),
    ),
    "variational": (
        RealNVP,
        RealNVPConfig((1, 4, 4), levels=4, hidden=4, blocks=0, dequantization="variational"),
    ),
}


def make_tiny(name, **changes):
    torch.manual_seed(0)
    model_class, config = TINY[name]
    model = model_class(replace(config, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch_for(model, B=16):
    generator = torch.Generator().manual_seed(1)
    shape = (B, *model.event_shape)
    if model.levels is None:
        return (torch.randn(shape, generator=generator),)
    x = torch.randint(model.levels, shape, generator=generator).float()
    return (x, torch.arange(B) % model.classes) if model.classes else (x,)


@pytest.mark.parametrize("name", MODELS)
def test_digits_beat_both_baselines(name):
    digits = load_digits("none")
    torch.manual_seed(0)
    model_class, config, epochs, learning_rate = MODELS[name]
    model = model_class(config)
    rows = digits.train.view(-1, 1, 8, 8)
    size = 100
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * (len(rows) // size), pct_start=0.1
    )

    for _ in range(epochs):
        order = torch.randperm(len(rows))
        for batch in order[: len(rows) // size * size].split(size):
            optimizer.zero_grad()
            model.loss(rows[batch]).backward()
            optimizer.step()
            schedule.step()

    nats = mean_nll_nats(model, digits.test)
    assert nats < min(baselines_nats(digits).values())

    sample = model.eval().sample(8)
    assert sample.shape == (8, 1, 8, 8)
    assert torch.equal(sample, sample.round())
    assert 0 <= int(sample.min()) < int(sample.max()) <= 16


def test_labels_help_a_class_conditional_glow_on_digits():
    digits = load_digits("none")
    torch.manual_seed(0)
    config = GlowConfig(
        **DIGITS, hidden=16, steps=2, classes=10, context_features=10, dequantization="variational"
    )
    model = Glow(config)
    rows, labels = digits.train.view(-1, 1, 8, 8), digits.labels["train"]
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for _ in range(8):
        for batch in torch.randperm(len(rows)).split(100):
            optimizer.zero_grad()
            model.loss(rows[batch], labels[batch]).backward()
            optimizer.step()

    x, right = digits.split("test")
    nats = mean_nll_nats(model, x, right)
    assert nats < min(baselines_nats(digits).values())
    # Telling the wrong class costs a nat at least; told all ten, the model names most digits.
    assert nats < mean_nll_nats(model, x, (right + 1) % 10) - 1
    with torch.no_grad():
        x = x.view(-1, 1, 8, 8)
        by_class = [model.log_prob(x, torch.full((len(x),), c), samples=4) for c in range(10)]
    named = torch.stack(by_class).argmax(0)
    assert float((named == right).float().mean()) > 0.5


@pytest.mark.parametrize("name", [name for name in TINY if name != "variational"])
def test_save_and_load(name, tmp_path):
    model = make_tiny(name)
    batch = batch_for(model)
    model.train()
    model.loss(*batch).backward()
    model.save_pretrained(tmp_path)

    loaded = FAMILIES[model.family].from_pretrained(tmp_path)

    assert loaded.config == model.config
    torch.manual_seed(0)
    expected = model.eval().log_prob(*batch)
    torch.manual_seed(0)
    assert torch.equal(loaded.log_prob(*batch), expected)
    # Its actnorms know that they are initialised, also in training.
    before = {key: value.clone() for key, value in loaded.state_dict().items()}
    loaded.train()
    loaded.loss(*batch_for(model, 40))
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", TINY)
def test_reversible_training_has_the_same_gradients(name):
    model, expected = (make_tiny(name, reversible=r).double() for r in (True, False))
    assert any(module.reversible for module in model.modules() if isinstance(module, Chain))
    batch = [t.double() if t.is_floating_point() else t for t in batch_for(model)]
    for each in (model, expected):
        torch.manual_seed(7)
        each.loss(*batch).backward()

    for mine, right in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, right.grad, rtol=1e-8, atol=1e-10)


def test_reversible_glow_is_right_in_float32():
    torch.manual_seed(0)
    config = GlowConfig((1, 8, 8), levels=17, hidden=16, steps=16)
    model = Glow(config)
    (x,) = batch_for(model)
    model.loss(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))

    found = []
    for reversible in (False, True):
        for scale in model.transform.scales:
            scale.reversible = reversible
        torch.manual_seed(1)
        found.append(torch.autograd.grad(model.loss(x), list(model.parameters())))

    stored, recomputed = (torch.cat([g.flatten() for g in each]) for each in found)
    assert float((recomputed - stored).norm() / stored.norm()) < 1e-4


@pytest.mark.parametrize("name", TINY)
def test_autocast_keeps_the_data_precise(name):
    model = make_tiny(name).eval()
    batch = batch_for(model)
    torch.manual_seed(0)
    exact = model.log_prob(*batch)

    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        log_prob = model.log_prob(*batch)
        x = batch[0] + 0.5 if model.levels else batch[0]
        z, _ = model(x, *batch[1:])
        again, _ = model.inverse(z, *batch[1:])
    log_prob.mean().backward()

    assert {log_prob.dtype, z.dtype, again.dtype} == {torch.float32}
    # Parameters of order 0.1 round to bfloat16 in a few layers, for each of at most 16 values.
    torch.testing.assert_close(log_prob, exact, atol=16 * 8 * 2**-8, rtol=0)
    # Both directions see the same kept halves, so they agree to the precision of float32.
    torch.testing.assert_close(again, x, atol=1e-3, rtol=0)
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", TINY)
def test_fullgraph_equals_eager(name):
    torch._dynamo.reset()
    model = make_tiny(name).eval()
    batch = batch_for(model)
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)

    torch.manual_seed(0)
    expected = model.loss(*batch)
    torch.manual_seed(0)
    loss = compiled(*batch)

    torch.testing.assert_close(loss, expected)
    parameters = [p for p in model.parameters() if p.requires_grad]
    mine, right = (torch.autograd.grad(each, parameters) for each in (loss, expected))
    for a, b in zip(mine, right, strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_training_initialises_actnorms_once():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model, twin = make_tiny("glow"), make_tiny("glow")
    (x,) = batch_for(model)
    compiled = torch.compile(model.loss, backend=counter, fullgraph=True)

    for _ in range(4):
        torch.manual_seed(2)
        loss = compiled(x)
        torch.manual_seed(2)
        torch.testing.assert_close(loss, twin.loss(x))

    norms = [module for module in model.modules() if isinstance(module, ActNorm)]
    assert norms
    assert all(bool(norm.initialized) for norm in norms)
    # One graph with the initialisation, one without.
    assert counter.frame_count == 2


@pytest.mark.parametrize("name", TINY)
def test_empty_batch(name):
    model = make_tiny(name)
    x, *context = (each[:0] for each in batch_for(model))
    assert model.log_prob(x, *context).shape == (0,)
    assert model.sample(0, *context).shape == (0, *model.event_shape)
    assert not any(bool(m.initialized) for m in model.modules() if isinstance(m, ActNorm))


def test_an_average_of_the_weights_takes_over_the_initialisation():
    model = make_tiny("glow")
    (x,) = batch_for(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    model.loss(x)
    average.update_parameters(model)

    twin = average.module.train()
    twin.loss(3 * x.clamp(max=1))

    for mine, right in zip(twin.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, right)


def test_samples_follow_the_seed_and_the_generator():
    model = make_tiny("glow").eval()
    torch.manual_seed(0)
    first = model.sample((2, 3))
    torch.manual_seed(0)
    assert first.shape == (2, 3, 1, 4, 4)
    assert torch.equal(model.sample((2, 3)), first)
    assert not torch.equal(model.sample((2, 3)), first)

    draws = [model.sample(4, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)


def test_temperature_scales_the_noise():
    torch.manual_seed(0)
    model = NICE(NICEConfig((3,), hidden=(8,), base="normal")).eval()
    generator = torch.Generator()
    warm, cold = (
        model.sample(500, generator=generator.manual_seed(0), temperature=t) for t in (1.0, 0.5)
    )
    # A new NICE is a permutation.
    torch.testing.assert_close(cold, 0.5 * warm)
    assert float(warm.std()) == pytest.approx(1, abs=0.1)


def test_labels_condition_density_and_samples():
    model = make_tiny("classes").eval()
    x, labels = batch_for(model)
    torch.manual_seed(0)
    first = model.log_prob(x, labels)
    torch.manual_seed(0)
    second = model.log_prob(x, (labels + 1) % 3)
    assert not torch.allclose(first, second)

    generator = torch.Generator()
    a, b = (
        model.sample(5, torch.tensor(label), generator.manual_seed(0), temperature=2.0)
        for label in (0, 1)
    )
    assert not torch.equal(a, b)
    assert model.sample((2, 5), torch.arange(5) % 3).shape == (2, 5, 1, 4, 4)


def test_features_as_context():
    model = make_tiny("nice", context_features=2).eval()
    x, context = torch.randn(5, 6), torch.randn(5, 2)
    assert model.log_prob(x, context).shape == (5,)
    assert model.sample((3, 5), context).shape == (3, 5, 6)
    model.loss(x, context).backward()
    assert model.sample(4, context[0]).shape == (4, 6)


def test_more_samples_raise_the_bound():
    model = make_tiny("glow").eval()
    (x,) = batch_for(model, 64)
    with torch.no_grad():
        one, many = (model.log_prob(x, samples=s).mean() for s in (1, 64))
    assert float(many) > float(one)


def test_logistic_base_samples_its_density():
    torch.manual_seed(0)
    model = NICE(NICEConfig((2,), hidden=(4,))).eval()
    x = model.sample(50_000, generator=torch.Generator().manual_seed(0))
    # Variance pi^2 / 3 and kurtosis 4.2 of the logistic distribution.
    assert float(x.var()) == pytest.approx(math.pi**2 / 3, rel=0.03)
    assert float((x / x.std()).pow(4).mean()) == pytest.approx(4.2, rel=0.1)
    assert bool(x.isfinite().all())


@pytest.mark.parametrize(
    ("name", "call", "error", "message"),
    [
        ("glow", lambda m: m.log_prob(torch.zeros(2, 16)), ValueError, "x must have shape"),
        ("glow", lambda m: m(torch.zeros(())), ValueError, "x must have shape"),
        ("glow", lambda m: m.inverse(torch.zeros(2, 4, 4)), ValueError, "z must have shape"),
        ("glow", lambda m: m.log_prob(torch.full((2, 1, 4, 4), 4.0)), ValueError, "x must hold"),
        ("glow", lambda m: m.log_prob(torch.full((2, 1, 4, 4), 0.5)), ValueError, "got fractions"),
        ("glow", lambda m: m.log_prob(torch.zeros(2, 1, 4, 4), samples=0), ValueError, "samples"),
        (
            "glow",
            lambda m: m.log_prob(torch.zeros(2, 1, 4, 4), torch.zeros(2).long()),
            ValueError,
            "context must be None",
        ),
        (
            "glow",
            lambda m: m.sample(2, temperature=-1.0),
            ValueError,
            "temperature must not be",
        ),
        ("glow", lambda m: m.sample((2, -1)), ValueError, "shape must not hold negative sizes"),
        (
            "glow",
            lambda m: m.sample((2, 3), noise=torch.zeros(6, 1, 4, 4)),
            ValueError,
            r"noise must have shape .* = \(2, 3, 1, 4, 4\); got \(6, 1, 4, 4\)",
        ),
        (
            "glow",
            lambda m: m.sample(2, noise=torch.zeros(2, 1, 4, 4).long()),
            TypeError,
            "noise must be",
        ),
        (
            "classes",
            lambda m: m.sample((4, 2), torch.arange(3)),
            ValueError,
            r"context must have dims that broadcast to shape = \(4, 2\); got \(3,\)",
        ),
        ("classes", lambda m: m.log_prob(torch.zeros(2, 1, 4, 4)), ValueError, "must be labels"),
        (
            "classes",
            lambda m: m.log_prob(torch.zeros(2, 1, 4, 4), torch.tensor([0, 3])),
            ValueError,
            r"context must hold values in 0 \.\. 2; got 0 to 3",
        ),
        (
            "classes",
            lambda m: m.log_prob(torch.zeros(2, 1, 4, 4), torch.zeros(2)),
            TypeError,
            "int64",
        ),
        (
            "classes",
            lambda m: m.log_prob(torch.zeros(2, 1, 4, 4), torch.zeros(3).long()),
            ValueError,
            r"context must have shape \(B,\) = \(2,\)",
        ),
    ],
)
def test_bad_input(name, call, error, message):
    with pytest.raises(error, match=message):
        call(make_tiny(name))


@pytest.mark.parametrize(
    ("config_class", "options", "message"),
    [
        (NICEConfig, {"event_shape": ()}, "event_shape must have positive sizes"),
        (NICEConfig, {"event_shape": (1,)}, "event_shape must have two features"),
        (NICEConfig, {"event_shape": (4,), "couplings": 0}, "couplings"),
        (NICEConfig, {"event_shape": (4,), "hidden": (0,)}, "hidden"),
        (NICEConfig, {"event_shape": (4,), "levels": 1}, "levels"),
        (NICEConfig, {"event_shape": (4,), "logit_alpha": 0.5}, "logit_alpha"),
        (NICEConfig, {"event_shape": (4,), "base": "cauchy"}, "base"),
        (NICEConfig, {"event_shape": (4,), "classes": 3}, "context_features must be positive"),
        (NICEConfig, {"event_shape": (4,), "classes": -1}, "classes"),
        (RealNVPConfig, {"event_shape": (1,)}, "event_shape must be"),
        (RealNVPConfig, {"event_shape": (4, 4)}, "event_shape must be"),
        (RealNVPConfig, {"event_shape": (1, 7, 7), "scales": 2}, "divisible by 2"),
        (RealNVPConfig, {"event_shape": (1, 4, 4), "blocks": -1}, "blocks"),
        (RealNVPConfig, {"event_shape": (1, 4, 4), "scales": 0}, "scales"),
        (GlowConfig, {"event_shape": (1, 28, 28), "scales": 3}, "divisible by 8"),
        (GlowConfig, {"event_shape": (16,)}, "event_shape must be"),
        (GlowConfig, {"event_shape": (1, 4, 4), "steps": 0}, "steps"),
    ],
)
def test_bad_settings(config_class, options, message):
    with pytest.raises(ValueError, match=message):
        config_class(**options)


def test_three_scales_of_28_by_28():
    model = RealNVP(RealNVPConfig((1, 28, 28), levels=256, scales=3, hidden=4, blocks=0))
    assert model.log_prob(torch.zeros(2, 1, 28, 28)).shape == (2,)
