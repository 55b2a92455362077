"""A VAE is a density: its conditionals sum to 1 and its samples follow it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dgm_fast.families import VAE, VAEConfig

BINARY = VAEConfig((2, 2), latent_features=2, hidden=(16,), activation="tanh")
TERNARY = replace(BINARY, levels=3)


def make_model(config, *, gain=2.0):
    """A model whose outputs vary with z."""
    torch.manual_seed(0)
    model = VAE(config, dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(gain)

    return model


def encode_nothing(model):
    """Make the posterior the prior, so that weights are p(x | z), z ~ p(z)."""
    with torch.no_grad():
        model.posterior.weight.zero_()
        model.posterior.bias.zero_()

    return model


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("output", ["bernoulli", "categorical", "logistic"])
def test_values_sum_to_one_given_z(all_states, output, network):
    model = make_model(replace(TERNARY, output=output, network=network, channels=(3,)))
    x = all_states(4, base=model.levels)
    z = torch.randn(5, 1, 2).double()
    model.requires_grad_(False)

    for each in z:
        log_p = model.conditional.log_prob(model.decode(each), x)
        assert abs(float(log_p.logsumexp(0))) < 1e-13


def test_the_estimate_itself_sums_to_one_where_the_posterior_is_the_prior(all_states):
    model = encode_nothing(make_model(BINARY))
    # One row a call: every x then meets the same z.
    log_p = torch.cat([
        model.log_prob(x.view(1, 2, 2), samples=6, seed=1) for x in all_states(4)
    ])  # fmt: skip

    assert abs(float(log_p.logsumexp(0))) < 1e-13


def test_samples_follow_the_density(all_states):
    n = 20_000
    model = encode_nothing(make_model(BINARY))
    x = all_states(4)
    probability = model.log_prob(x.view(-1, 2, 2), samples=n, seed=1).exp()

    samples = model.sample(n, generator=torch.Generator().manual_seed(2)).flatten(1)

    share = torch.stack([(samples == each).all(1).double().mean() for each in x])
    assert float(probability.max()) > 2 * float(probability.min())
    # Both sides are means of n draws: five standard deviations of their difference at most.
    assert bool(((share - probability).abs() < 5 * (2 * probability / n).sqrt()).all())


def test_samples_have_their_shape_and_seed():
    model = make_model(replace(TERNARY, output="logistic"))
    draw = [model.sample((3, 4), generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]

    assert draw[0].shape == (3, 4, 2, 2)
    assert draw[0].dtype is torch.float64
    assert set(draw[0].unique().tolist()) <= {0.0, 1.0, 2.0}
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert model.sample(0).shape == (0, 2, 2)


def test_reconstruction_is_the_mean_at_the_mean_of_the_posterior():
    model = make_model(replace(TERNARY, output="categorical"))
    x = torch.randint(0, 3, (5, 2, 2)).double()

    parameters = model.decode(model.encode(x).mean)

    expected = parameters.softmax(-1) @ torch.arange(3).double()
    torch.testing.assert_close(model.reconstruct(x), expected.view(5, 2, 2))


def test_labels_change_encoder_and_decoder():
    model = make_model(replace(BINARY, classes=3))
    x = torch.ones(4, 2, 2).double()
    labels = torch.arange(4) % 3

    mean = model.encode(x, labels).mean
    parameters = model.decode(torch.zeros(4, 2).double(), labels)
    for one in (mean, parameters):
        torch.testing.assert_close(one[0], one[3])
        assert not torch.allclose(one[0], one[1])
    for many in (model.log_prob(x, labels, samples=3), model.validation_nats(x, labels)):
        assert many.shape == (4,)
    assert model.sample((2, 3), torch.arange(3)).shape == (2, 3, 2, 2)
    assert model.reconstruct(x, labels).shape == x.shape


@pytest.mark.parametrize("size", [(28, 28), (8, 8), (3, 9, 14), (1, 5, 7)])
def test_convolutions_fit_every_size(size):
    config = VAEConfig(size, latent_features=3, network="conv", hidden=(12,), channels=(4, 6))
    model = VAE(config)
    x = torch.rand(2, *size).round()

    assert model.decode(torch.randn(2, 3)).shape == (2, math.prod(size), 1)
    assert model.elbo(x).shape == (2,)
    assert model.sample(2).shape == x.shape


def test_convolutions_put_parameters_where_their_values_are():
    config = VAEConfig((2, 4, 4), output="gaussian", latent_features=3, network="conv",
                       hidden=(), channels=(4,))  # fmt: skip
    model = make_model(config)
    z = torch.randn(2, 3).double()
    raw = model.decoder.convs[0](
        model.decoder.dense(z).unflatten(1, model.decoder.smallest)
    )  # (B, C * P, H, W)

    parameters = model.decode(z).view(2, 2, 4, 4, 2)

    for channel in range(2):
        for which in range(2):
            expected = raw[:, 2 * channel + which]
            assert torch.equal(parameters[:, channel, :, :, which], expected)


def test_what_the_training_loop_reads():
    for output, levels in (("bernoulli", 2), ("categorical", 3), ("logistic", 3)):
        assert VAE(replace(TERNARY, output=output)).levels == levels
    model = VAE(replace(TERNARY, output="gaussian", classes=4))
    assert model.levels is None
    assert model.classes == 4
    assert model.event_shape == (2, 2)
