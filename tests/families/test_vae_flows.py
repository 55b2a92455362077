"""Flows in the latent of a VAE keep the bound a bound: their densities are those of their maps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal

from dgm_fast.families import VAE, VAEConfig
from dgm_fast.ops import philox_normal

L = 3
PLAIN = VAEConfig((2, 2), latent_features=L, hidden=(16,), activation="tanh", flow_hidden=(8,))
KINDS = {
    "prior": replace(PLAIN, prior="flow"),
    "posterior": replace(PLAIN, posterior="flow"),
    "both": replace(PLAIN, prior="flow", posterior="flow", flow_steps=3),
}
every = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)


def make_model(config, *, bend=0.4):
    """A model whose flows are away from the identity they begin as."""
    torch.manual_seed(0)
    model = VAE(config, dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in model.flows.parameters():
            parameter.add_(bend * torch.randn_like(parameter))

    return model


def make_mild_model(config):
    """One whose posterior covers its prior, so that importance weights have a variance."""
    model = make_model(config, bend=0.06).float()
    with torch.no_grad():
        model.posterior.bias[L:] += 1.0

    return model


@every
@pytest.mark.parametrize("samples", [1, 5])
def test_new_flows_change_nothing(config, samples, all_states):
    model = make_model(replace(config, training_samples=samples), bend=0.0)
    plain = make_model(replace(PLAIN, training_samples=samples))
    plain.load_state_dict(model.state_dict(), strict=False)
    x = all_states(4).view(-1, 2, 2)

    assert torch.equal(model.elbo(x, seed=1), plain.elbo(x, seed=1))
    assert torch.equal(model.log_prob(x, samples=5, seed=1), plain.log_prob(x, samples=5, seed=1))
    outputs = []
    for each in (model, plain):
        torch.manual_seed(3)
        outputs.append(each.loss(x))
    assert torch.equal(*outputs)


@every
def test_weights_are_those_of_the_jacobians(config):
    model = make_model(config)
    x = torch.rand(6, 2, 2).double().round()
    mean, log_var = model.encode(x)
    q0 = Normal(mean, (0.5 * log_var).exp())
    z0 = q0.mean + q0.stddev * philox_normal((6, L), seed=4, dtype=torch.float64)
    features = model.encoder(x, None)

    expected = []
    for row in range(6):

        def posterior(z, row=row):
            return model.flows.bend(z.unsqueeze(0), features[row : row + 1]).squeeze(0)

        def prior(z):
            flow = model.flows.prior
            return z if flow is None else flow(z.unsqueeze(0))[0].squeeze(0)

        z = posterior(z0[row])
        slopes = [
            torch.autograd.functional.jacobian(f, at).slogdet().logabsdet
            for f, at in ((posterior, z0[row]), (prior, z))
        ]
        log_q = q0.log_prob(z0)[row].sum() - slopes[0]
        log_p = Normal(torch.zeros_like(z), 1.0).log_prob(prior(z)).sum() + slopes[1]
        likelihood = model.conditional.log_prob(
            model.decode(z.unsqueeze(0)), x[row].view(1, 4)
        ).squeeze(0)
        expected.append(likelihood + log_p - log_q)

    bent = [config.posterior == "flow", config.prior == "flow"]
    assert [abs(float(slope)) > 0.01 for slope in slopes] == bent
    torch.testing.assert_close(model.importance_weighted_bound(x, 1, seed=4), torch.stack(expected))


@every
def test_weights_average_to_a_density(config, all_states):
    n = 5000
    model = make_mild_model(config)
    x = all_states(4, dtype=torch.float32).view(-1, 1, 2, 2).expand(-1, n, 2, 2)

    with torch.no_grad():
        weights = model.importance_weighted_bound(x.flatten(0, 1), 1, seed=1).view(16, n).exp()

    # The weights of each x are independent: five standard errors of the sum of the means.
    error = 5 * float((weights.var(1) / n).sum().sqrt())
    assert abs(float(weights.mean(1).sum()) - 1) < error < 0.1


@every
def test_the_analytic_form_has_the_same_mean(config):
    n = 20_000
    model = make_mild_model(config)
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).expand(n, 2, 2)

    with torch.no_grad():
        elbo = model.elbo(x, seed=1)
        weights = model.importance_weighted_bound(x, 1, seed=2)

    error = 5 * math.sqrt(float(elbo.var() + weights.var()) / n)
    assert abs(float(elbo.mean() - weights.mean())) < error


def test_samples_follow_the_density_of_a_flow_prior(all_states):
    n = 20_000
    model = make_mild_model(KINDS["both"])
    x = all_states(4, dtype=torch.float32)
    with torch.no_grad():
        log_p = model.log_prob(x.view(-1, 2, 2), samples=n, seed=1)

    samples = model.sample(n, generator=torch.Generator().manual_seed(2)).flatten(1)

    share = torch.stack([(samples == each).all(1).double().mean() for each in x])
    probability = log_p.exp()
    # Weights vary less than a draw's 0 or 1: five standard deviations of a difference at most.
    assert bool(((share - probability).abs() < 5 * (2 * probability / n).sqrt()).all())


def test_prior_draws_are_the_inverse_of_its_density():
    model = make_model(KINDS["prior"])
    noise = torch.randn(50, L).double()

    z = model.flows.draw(noise).detach()

    assert float((z - noise).abs().max()) > 0.1
    torch.testing.assert_close(model.flows.prior(z)[0], noise)


@every
def test_flows_learn(config):
    model = make_model(config, bend=0.0)
    model.loss(torch.rand(8, 2, 2).double().round()).backward()

    for flow in (model.flows.prior, model.flows.posterior):
        for step in flow.steps if flow is not None else ():
            assert float(step.conditioner.layers[-1].weight.grad.abs().max()) > 0


def test_reconstruction_passes_through_the_flow():
    model = make_model(KINDS["posterior"])
    x = torch.rand(5, 2, 2).double().round()
    z = model.flows.bend(model.encode(x).mean, model.encoder(x, None))

    expected = model.decode(z).squeeze(-1).sigmoid().view(5, 2, 2)

    torch.testing.assert_close(model.reconstruct(x), expected)
