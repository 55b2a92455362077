"""ICA, MAF, IAF and neural spline flows: what holds without training, and that they train."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from dgm_fast.families import (
    FAMILIES,
    ICA,
    IAFConfig,
    ICAConfig,
    MAFConfig,
    NeuralSplineFlowConfig,
)
from dgm_fast.families.autoregressive.masked_mlp import MaskedMLP
from dgm_fast.families.flows import masked_autoregressive as steps
from dgm_fast.families.flows.chain import Chain
from dgm_fast.families.flows.masked_autoregressive import (
    AffineAutoregressive,
    MaskedAutoregressive,
    SplineAutoregressive,
)
from dgm_fast.layers import SplineShape
from dgm_fast.sampling.masked_mlp import BLOCK
from dgm_fast.training import load_dataset, mean_nll_nats, train
from dgm_fast.training.data import DataConfig
from dgm_fast.training.metrics import baselines_nats
from dgm_fast.training.recipes import find_recipe
from tests.families.flow_models import CLASSES, CONFIGS, make


@pytest.fixture(params=CONFIGS)
def flow(request):
    return make(CONFIGS[request.param])


def test_log_det_is_that_of_the_jacobian(flow):
    model, x = flow
    _, log_det = model(x[:3])
    for each, found in zip(x, log_det, strict=False):
        jacobian = torch.autograd.functional.jacobian(lambda v: model(v[None])[0][0], each)
        assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(found.item(), abs=1e-8)


def test_inverse_undoes_forward(flow):
    model, x = flow
    z, log_det = model(x)
    back, minus_log_det = model.inverse(z)
    torch.testing.assert_close(back, x, atol=1e-7, rtol=0)
    torch.testing.assert_close(minus_log_det, -log_det, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "ica" not in name])
def test_reversible_training_has_the_same_gradients(name):
    model, x = make(CONFIGS[name])
    found = []
    for reversible in (False, True):
        chains = [m for m in model.transform.steps if isinstance(m, Chain)]
        assert len(chains) == 1
        chains[0].reversible = reversible
        found.append(torch.autograd.grad(model.loss(x), list(model.parameters())))

    for recovered, stored in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(recovered, stored, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_setting_reaches_the_chain(config):
    model = CLASSES[type(config)](replace(config, reversible=True))
    on = [m.reversible for m in model.modules() if isinstance(m, Chain)]
    assert any(on) != isinstance(model, ICA)


def test_a_second_derivative_of_a_solution_is_refused():
    model, x = make(CONFIGS["iaf"])
    x = x[:2].requires_grad_()
    with pytest.raises(RuntimeError, match="must be differentiated once only"):
        torch.autograd.grad(model(x)[0].sum(), x, create_graph=True)


def test_densities_integrate_to_one():
    grid = torch.linspace(-8, 8, 129, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    for config in CONFIGS.values():
        model, _ = make(replace(config, event_shape=(2,)))
        mass = model.log_prob(x).exp().sum().item() * (grid[1] - grid[0]).item() ** 2
        assert mass == pytest.approx(1, abs=5e-3), config


@pytest.mark.parametrize("name", ["maf", "iaf", "nsf-ar"])
def test_a_step_is_autoregressive_and_solved_exactly_in_as_many_passes_as_features(name):
    model, x = make(CONFIGS[name])
    step = next(m for m in model.modules() if isinstance(m, MaskedAutoregressive))
    jacobian = torch.autograd.functional.jacobian(lambda v: step(v[None])[0][0], x[0])
    assert torch.equal(jacobian, jacobian.tril())
    assert (jacobian.diagonal() > 0).all()

    # Naively, one feature after another.
    y = step(x)[0].detach()
    naive = torch.zeros_like(x)
    with torch.no_grad():
        for d in range(x.shape[1]):
            naive[:, d] = step.elementwise(y, step.network(naive), True)[0][:, d]
        torch.testing.assert_close(step.inverse(y)[0], naive, atol=1e-9, rtol=0)


@pytest.mark.parametrize("hidden", [(), (40,), (33, 150), (33, 150, 33, 50, 33)])
@pytest.mark.parametrize("context_features", [0, 3])
@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_blocks_solve_what_the_whole_network_solves(hidden, context_features, kind, monkeypatch):
    torch.manual_seed(0)
    D = 2 * BLOCK + 7
    options = {"residual": len(hidden) > 2}
    if kind == "affine":
        step = AffineAutoregressive(D, hidden, context_features, **options)
    else:
        step = SplineAutoregressive(D, hidden, SplineShape(4, 3.0), context_features, **options)
    step = step.double()
    with torch.no_grad():
        for p in step.parameters():
            p += 0.05 * torch.randn_like(p)
    x = torch.randn(10, D, dtype=torch.float64)
    context = torch.randn(10, context_features, dtype=torch.float64) if context_features else None
    y = step(x, context)[0].detach().requires_grad_()
    found, passes = [], []
    step.network.register_forward_hook(lambda *_: passes.append(1))

    for takes_passes in (False, True):
        monkeypatch.setattr(steps, "_takes_passes", lambda y, passes=takes_passes: passes)
        passes.clear()
        back, log_det = step.inverse(y, context)
        leaves = [y, *step.parameters()]
        gradients = torch.autograd.grad(back.sin().sum() + log_det.square().sum() / D, leaves)
        found.append((back, log_det, *gradients, len(passes)))

    assert found[0][-1] == 0 < found[1][-1]
    torch.testing.assert_close(found[0][0], x, atol=1e-9, rtol=0)
    for ours, expected in zip(found[0][:-1], found[1][:-1], strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("kind", ["standardizing", "affine", "spline"])
@pytest.mark.parametrize("D", [1, 6, 2 * BLOCK + 7])
@pytest.mark.parametrize("context_features", [0, 3])
def test_the_sweep_solves_what_passes_solve(kind, D, context_features, monkeypatch):
    torch.manual_seed(1)
    if kind == "spline":
        step = SplineAutoregressive(D, (40,), SplineShape(5, 3.0), context_features)
    else:
        step = AffineAutoregressive(
            D,
            (33, 50, 33),
            context_features,
            residual=D > 1,
            standardize=kind == "standardizing",
        )
    with torch.no_grad():
        for p in step.parameters():
            p += 0.05 * torch.randn_like(p)
    x = torch.randn(10, D)
    context = torch.randn(10, context_features) if context_features else None
    with torch.no_grad():
        y, log_det = step(x, context)
        passes = []
        step.network.register_forward_hook(lambda *_: passes.append(1))
        back, minus_log_det = step.inverse(y, context)
        if steps.MaskedSampler(step.network.description(), step.inverse_step).impl == "cpp":
            assert not passes
        monkeypatch.setattr(steps, "_takes_passes", lambda y: True)
        expected, minus_expected = step.inverse(y, context)
        assert passes

    for found in (back, expected):
        torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)
    for found in (minus_log_det, minus_expected):
        torch.testing.assert_close(found, -log_det, atol=1e-3, rtol=1e-4)


def test_the_solver_can_be_chosen():
    torch.manual_seed(0)
    step = AffineAutoregressive(2 * BLOCK, (40,), solver="jacobi")
    passes = []
    step.network.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        step.network.layers[-1].weight.normal_(0.0, 0.1)
        y = step(torch.randn(10, 2 * BLOCK))[0]
        passes.clear()
        iterated, log_det = step.inverse(y)
        # One finds nothing new, and one more has the log-determinant.
        assert len(passes) > 3
        for dtype in (torch.float32, torch.bfloat16):
            step.solver = "sweep"
            passes.clear()
            with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
                swept, its_log_det = step.inverse(y)
            assert not passes
            torch.testing.assert_close(swept, iterated, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(its_log_det, log_det, atol=1e-3, rtol=1e-4)
    with pytest.raises(ValueError, match=r"solver must be .*; got 'newton'"):
        AffineAutoregressive(4, (), solver="newton")


@pytest.mark.parametrize("name", ["maf", "iaf", "nsf-ar"])
def test_autocast_solves_as_it_evaluates(name):
    model, x = make(CONFIGS[name])
    model, x = model.float(), x.float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = model(x)
        back, minus_log_det = model.inverse(z)
    torch.testing.assert_close(back, x, atol=0.1, rtol=0.1)
    torch.testing.assert_close(minus_log_det, -log_det, atol=0.2, rtol=0.1)


def test_what_overflows_before_it_is_known_does_no_harm_and_for_good_is_not_hidden():
    for D in (4, 3 * BLOCK):
        step = AffineAutoregressive(D, (), bound=200.0)
        y = torch.zeros(2, D)
        y[0, :4], y[1, -1] = torch.tensor([3.0, -2.0, 1.0, 5.0]), 2.0
        with torch.no_grad():
            for layer in step.network.layers:
                layer.weight.fill_(30.0)
            x, log_det = step.inverse(y)

        # Of the first row the last features are out of float32's range, of the second none is.
        assert x[0, 0] == 3.0
        assert not x[0, 3:].isfinite().any()
        assert not log_det[0].isfinite()
        assert torch.equal(x[1], y[1])
        assert log_det[1] == 0


def test_maf_and_iaf_are_each_other_turned_round():
    maf, x = make(MAFConfig(event_shape=(5,), steps=1, hidden=(8,)))
    iaf, _ = make(IAFConfig(event_shape=(5,), steps=1, hidden=(8,)))
    x = x[:, :5]
    passes = {"maf": 0, "iaf": 0}

    def count(name):
        return lambda *_: passes.update({name: passes[name] + 1})

    for name, model in (("maf", maf), ("iaf", iaf)):
        network = next(m for m in model.modules() if isinstance(m, MaskedMLP))
        network.register_forward_hook(count(name))

    with torch.no_grad():
        maf(x), iaf.inverse(x)
        assert passes == {"maf": 1, "iaf": 1}
        maf.inverse(x), iaf(x)
        assert min(passes.values()) > 2


def test_a_linear_flow_with_a_normal_base_reaches_the_entropy_of_a_gaussian():
    torch.manual_seed(1)
    mixing = torch.randn(3, 3, dtype=torch.float64)
    covariance = mixing @ mixing.T + 0.1 * torch.eye(3, dtype=torch.float64)
    x = torch.randn(4000, 3, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    model = ICA(ICAConfig(event_shape=(3,), base="normal")).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    # The best Gaussian has the moments of the sample, and its entropy is the loss.
    sample = torch.cov(x.T, correction=0)
    entropy = 0.5 * (3 * (1 + math.log(2 * math.pi)) + torch.logdet(sample).item())
    assert model.loss(x).item() == pytest.approx(entropy, abs=1e-4)


def test_ica_separates_what_was_mixed():
    torch.manual_seed(0)
    sources = torch.distributions.Laplace(0.0, 1.0).sample((4000, 3)).double()
    mixing = torch.tensor([[1.0, 0.5, 0.2], [-0.4, 1.0, 0.3], [0.1, -0.6, 1.0]]).double()
    model = ICA(ICAConfig(event_shape=(3,))).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    x = sources @ mixing.T

    def closure():
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        found, _ = model(x)
    # Up to order, sign and scale every source is found again.
    correlation = torch.corrcoef(torch.cat([sources, found], dim=1).T)[:3, 3:].abs()
    assert (correlation.max(1).values > 0.99).all()
    assert (correlation.sort(1).values[:, :2] < 0.1).all()


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (ICAConfig, {"context_features": 3}, "context_features must be 0"),
        (MAFConfig, {"steps": 0}, "steps must be at least 1; got 0"),
        (MAFConfig, {"hidden": (4, 0)}, "hidden must hold positive widths"),
        (IAFConfig, {"bound": -1.0}, "bound must be positive; got -1.0"),
        (NeuralSplineFlowConfig, {"bins": 0}, "bins must be at least 1; got 0"),
        (MAFConfig, {"hidden": (4, 4), "residual": True}, "residual needs hidden to be"),
        (
            NeuralSplineFlowConfig,
            {"hidden": (4, 4, 4), "residual": True},
            "residual needs conditioning='autoregressive'",
        ),
        (NeuralSplineFlowConfig, {"conditioning": "both"}, "conditioning must be"),
        (NeuralSplineFlowConfig, {"event_shape": (1,)}, "event_shape must have two features"),
    ],
)
def test_bad_hyperparameters_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        config(**{"event_shape": (4,), **options})


@pytest.mark.parametrize("name", ["maf", "iaf", "nsf", "nsf-ar"])
def test_a_context_reaches_every_parameter_of_it(name):
    config = replace(CONFIGS[name], classes=3, context_features=4)
    model, x = make(config)
    log_probs = [model.log_prob(x, torch.full((len(x),), c)) for c in range(3)]
    assert not torch.allclose(log_probs[0], log_probs[1])
    log_probs[0].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("family", ["ica", "maf", "iaf", "nsf"])
def test_trains_on_digits(family, tmp_path):
    recipe = find_recipe(family, "digits")
    epochs = {"ica": 20}.get(family, 8)
    config = replace(recipe.train, epochs=epochs, tensorboard=False, device="cpu")
    dataset = load_dataset(DataConfig(data="digits", binarization="none"))
    torch.manual_seed(0)
    model = FAMILIES[family](recipe.model)
    before = mean_nll_nats(model, *dataset.split("test"))
    train(model, dataset, config, tmp_path, console=Console(quiet=True))

    best = FAMILIES[family].from_pretrained(tmp_path)
    nats = mean_nll_nats(best, *dataset.split("test"))
    assert nats < min(baselines_nats(dataset).values()) < before
    assert best.sample(3).shape == (3, *best.event_shape)
