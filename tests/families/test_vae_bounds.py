"""The bounds of a VAE against a model whose likelihood is known, and against torch.distributions.

Probabilistic PCA, x = W z + m + s noise, is a VAE with linear networks. Where the columns of W are
orthogonal its posterior is a diagonal Gaussian, which the linear encoder can be.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from dgm_fast.families import VAE, VAEConfig
from dgm_fast.families.latent import vae
from dgm_fast.ops import philox_normal

D, L = 6, 3
LOG_SCALE = -0.7
PCA = VAEConfig(event_shape=(D,), output="gaussian", latent_features=L, hidden=())


def make_pca(*, wrong: bool = False, config: VAEConfig = PCA):
    """Return the model and the density p(x); a wrong posterior is shifted and too narrow."""
    torch.manual_seed(0)
    model = VAE(config, dtype=torch.float64)
    W = torch.linalg.qr(torch.randn(D, L).double()).Q * torch.tensor([2.0, 1.0, 0.5]).double()
    m = torch.randn(D).double()
    variance = math.exp(2 * LOG_SCALE)
    precision = 1 + W.square().sum(0) / variance

    with torch.no_grad():
        decoder = model.decoder.output
        decoder.weight.copy_(torch.stack([W, torch.zeros_like(W)], dim=1).view(2 * D, L))
        decoder.bias.copy_(torch.stack([m, torch.full_like(m, LOG_SCALE)], dim=1).view(2 * D))

        gain = (W / variance / precision).T
        model.posterior.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        model.posterior.bias.copy_(torch.cat([-gain @ m, -precision.log()]))
        if wrong:
            model.posterior.bias[:L] += 0.3 / precision.sqrt()
            model.posterior.bias[L:] -= 1.0

    covariance = W @ W.T + variance * torch.eye(D).double()
    return model.eval(), MultivariateNormal(m, covariance)


def terms_of(model, x, samples, seed):
    """log p(x | z), log p(z), log q(z | x) and q by torch.distributions: (K, B) each."""
    mean, log_var = model.posterior(x).chunk(2, dim=1)
    q = Normal(mean, (0.5 * log_var).exp())
    noise = philox_normal((samples * len(x), L), seed=seed, dtype=torch.float64)
    z = q.mean + q.stddev * noise.view(samples, len(x), L)

    loc, log_scale = model.decoder.output(z).unflatten(-1, (D, 2)).unbind(-1)
    likelihood = Normal(loc, log_scale.exp()).log_prob(x).sum(-1)
    prior = Normal(torch.zeros_like(z), 1.0).log_prob(z).sum(-1)
    return likelihood, prior, q.log_prob(z).sum(-1), q


@pytest.mark.parametrize("samples", [1, 2, 50])
def test_with_the_exact_posterior_every_weight_is_the_likelihood(samples):
    model, density = make_pca()
    x = 3 * torch.randn(20, D).double()

    bound = model.importance_weighted_bound(x, samples, seed=1)

    # Terms of order 100, in float64.
    torch.testing.assert_close(bound, density.log_prob(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("wrong", [False, True], ids=["exact posterior", "wrong posterior"])
def test_elbo_lies_below_the_likelihood_by_the_divergence_of_the_posteriors(wrong):
    n = 20_000
    model, density = make_pca(wrong=wrong)
    exact = make_pca()[0]
    x = torch.randn(1, D).double()

    q, p = (Normal(m, (0.5 * v).exp()) for m, v in (model.encode(x), exact.encode(x)))
    gap = kl_divergence(q, p).sum().detach()
    elbos = model.elbo(x.expand(n, D), seed=3).detach()

    assert float(gap) > 0.5 if wrong else float(gap) < 1e-12
    # Five standard errors.
    error = 5 * float(elbos.std()) / math.sqrt(n)
    assert abs(float(elbos.mean() + gap - density.log_prob(x))) < error < 0.1


def test_samples_of_the_elbo_are_averaged():
    model, _ = make_pca(wrong=True)
    x = torch.randn(4, D).double()
    likelihood, _, _, q = terms_of(model, x, 7, seed=5)
    prior = Normal(torch.zeros(4, L).double(), 1.0)

    expected = likelihood.mean(0) - kl_divergence(q, prior).sum(1)

    torch.testing.assert_close(model.elbo(x, samples=7, seed=5), expected)


def test_the_bound_grows_with_the_samples_toward_the_likelihood():
    n = 2000
    model, density = make_pca(wrong=True)
    x = torch.randn(1, D).double()
    exact = float(density.log_prob(x))

    means, errors = [], []
    for samples in (1, 5, 25, 125):
        with torch.no_grad():
            bounds = model.importance_weighted_bound(x.expand(n, D), samples, seed=samples)
        means.append(float(bounds.mean()))
        errors.append(4 * float(bounds.std()) / math.sqrt(n))

    for low, high, error in zip(means, means[1:], errors, strict=False):
        assert high > low + error, means
    assert means[-1] < exact + errors[-1]
    assert exact - means[-1] < 0.1 < 0.5 < exact - means[0]


def test_log_prob_is_the_bound_of_the_configured_samples():
    model, _ = make_pca(
        wrong=True,
        config=VAEConfig((D,), "gaussian", latent_features=L, hidden=(), evaluation_samples=7),
    )
    x = torch.randn(4, D).double()

    assert torch.equal(model.log_prob(x, seed=2), model.importance_weighted_bound(x, 7, seed=2))
    assert torch.equal(
        model.log_prob(x, samples=3, seed=2), model.importance_weighted_bound(x, 3, seed=2)
    )


@pytest.mark.parametrize("samples", [1, 10, 33])
def test_chunks_do_not_change_the_bound(monkeypatch, samples):
    model, _ = make_pca(wrong=True)
    x = torch.randn(5, D).double()
    whole = model.importance_weighted_bound(x, samples, seed=2)

    # Chunks of four samples, the last one cut short.
    monkeypatch.setattr(vae, "_DECODED_PARAMETERS", 4 * x.numel() * 2)

    torch.testing.assert_close(model.importance_weighted_bound(x, samples, seed=2), whole)


@pytest.mark.parametrize("log_scale", [-9.0, 0.0, 30.0])
def test_five_thousand_extreme_weights(monkeypatch, log_scale):
    model, _ = make_pca(wrong=True)
    with torch.no_grad():
        model.decoder.output.bias.view(D, 2)[:, 1] = log_scale
    x = torch.tensor([0.0, 1.0, -1e3, 1e3]).double().unsqueeze(1).expand(4, D)
    monkeypatch.setattr(vae, "_DECODED_PARAMETERS", 700 * x.numel() * 2)
    likelihood, prior, q, _ = terms_of(model, x, 5000, seed=2)
    log_weight = (likelihood + prior - q).detach()
    expected = log_weight.logsumexp(0) - math.log(5000)

    bound = model.importance_weighted_bound(x, 5000, seed=2)
    in_float32 = model.float().importance_weighted_bound(x.float(), 5000, seed=2)

    torch.testing.assert_close(bound, expected)
    # Neither the weights nor their sum fit into float32.
    assert float(log_weight.abs().max()) > 150
    assert in_float32.dtype is torch.float32
    # The largest weight decides, whose square of (x - loc) / scale is off by a few roundings.
    torch.testing.assert_close(in_float32.double(), expected, rtol=1e-3, atol=1e-3)


def test_memory_does_not_grow_with_the_samples(monkeypatch):
    model, _ = make_pca()
    x = torch.randn(5, D).double()
    monkeypatch.setattr(vae, "_DECODED_PARAMETERS", 20 * x.numel() * 2)
    rows = []
    model.decoder.register_forward_hook(lambda module, args, y: rows.append(len(y)))

    model.importance_weighted_bound(x, 510, seed=0)

    assert sum(rows) == 510 * 5
    assert max(rows) == 20 * 5


@pytest.mark.parametrize("samples", [1, 5])
def test_gradients_of_the_loss_are_those_of_torch_distributions(monkeypatch, samples):
    config = VAEConfig((D,), "gaussian", latent_features=L, hidden=(), training_samples=samples)
    model, _ = make_pca(wrong=True, config=config)
    x = torch.randn(8, D).double()
    monkeypatch.setattr(vae, "draw_seed", lambda device, generator=None: torch.tensor(9))
    likelihood, prior, q_log_prob, q = terms_of(model, x, samples, seed=9)
    if samples == 1:
        kl = kl_divergence(q, Normal(torch.zeros_like(q.mean), 1.0)).sum(1)
        expected = (kl - likelihood).mean()
    else:
        expected = math.log(samples) - (likelihood + prior - q_log_prob).logsumexp(0).mean()

    loss = model.loss(x)

    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_parts_of_the_output_add_up():
    model, _ = make_pca(wrong=True)
    x = torch.randn(8, D).double()
    torch.manual_seed(4)
    output = model(x)
    torch.manual_seed(4)
    elbo = model.elbo(x)

    torch.testing.assert_close(output.elbo, elbo)
    torch.testing.assert_close(output.loss, -elbo.mean())
    torch.testing.assert_close(
        output.kl, kl_divergence(
            Normal(model.encode(x).mean, (0.5 * model.encode(x).log_var).exp()), Normal(0.0, 1.0)
        ).sum(1)
    )  # fmt: skip
    torch.manual_seed(4)
    assert torch.equal(model.validation_nats(x), -elbo)


@pytest.mark.parametrize("samples", [1, 4])
def test_beta_weighs_the_kl(samples):
    x = torch.randn(8, D).double()
    losses = {}
    for beta in (0.0, 1.0, 4.0):
        config = VAEConfig(
            (D,), "gaussian", latent_features=L, hidden=(), beta=beta, training_samples=samples
        )
        torch.manual_seed(4)
        output = make_pca(wrong=True, config=config)[0](x)
        losses[beta] = output.loss
        if samples == 1:
            parts = output.reconstruction.mean() + beta * output.kl.mean()
            torch.testing.assert_close(output.loss, parts)

    assert losses[0.0] < losses[1.0] < losses[4.0]


def test_beta_grows_in_training_and_stays_in_evaluation():
    config = VAEConfig(
        (D,), "gaussian", latent_features=L, hidden=(), beta=2.0, beta_warmup_steps=10
    )
    model, _ = make_pca(wrong=True, config=config)
    x = torch.randn(8, D).double()

    @torch.no_grad()
    def beta():
        output = model(x)
        return float((output.loss - output.reconstruction.mean()) / output.kl.mean())

    for step, grown in ((0, 0.0), (5, 1.0), (10, 2.0), (1000, 2.0), (5, 1.0)):
        model.train().training_step_begin(step)
        assert beta() == pytest.approx(grown)
        model.eval()
        assert beta() == pytest.approx(2.0)


def test_free_bits_charge_each_dimension_its_mean_or_the_minimum():
    free_bits = 1.2
    config = VAEConfig((D,), "gaussian", latent_features=L, hidden=(), free_bits=free_bits)
    model, _ = make_pca(config=config)
    x = 0.5 * torch.randn(8, D).double()
    mean, log_var = model.encode(x)
    prior = Normal(torch.zeros_like(mean), 1.0)
    per_dimension = kl_divergence(Normal(mean, (0.5 * log_var).exp()), prior).mean(0)
    free = per_dimension < free_bits
    assert 0 < int(free.sum()) < L, per_dimension

    output = model(x)
    charged = output.loss - output.reconstruction.mean()

    torch.testing.assert_close(charged, per_dimension.clamp(min=free_bits).sum())
    torch.testing.assert_close(output.kl.mean(), per_dimension.sum())
    (gradient,) = torch.autograd.grad(charged, model.posterior.bias)
    # The reconstruction's own gradient cancels to rounding, that of the free dimensions is gone.
    assert float(gradient[:L][free].abs().max()) < 1e-12
    assert float(gradient[:L][~free].abs().min()) > 1e-3
