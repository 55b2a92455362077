"""The layer `Invertible1x1Conv`."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.layers import Invertible1x1Conv

kinds = pytest.mark.parametrize("plu", [True, False], ids=["factors", "full"])
FACTORS = {"lower", "upper", "log_diag", "permutation", "sign"}


@kinds
@pytest.mark.parametrize("channels", [1, 2, 7, 48, 96])
def test_starts_as_a_rotation(channels, plu):
    torch.manual_seed(0)
    layer = Invertible1x1Conv(channels, plu=plu)
    weight = layer.full_weight().detach()
    torch.testing.assert_close(weight @ weight.t(), torch.eye(channels), rtol=0, atol=1e-5)

    _, log_det = layer(torch.randn(2, channels, 4, 4))
    assert log_det.abs().max() < 16 * 1e-4


@kinds
def test_the_seed_governs_it(plu):
    def draw(seed):
        torch.manual_seed(seed)
        return Invertible1x1Conv(5, plu=plu).full_weight()

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@kinds
def test_state_dict_says_all_of_it(plu):
    first, second = Invertible1x1Conv(6, plu=plu), Invertible1x1Conv(6, plu=plu)
    assert set(first.state_dict()) == (FACTORS if plu else {"weight"})

    second.load_state_dict(first.state_dict())
    x = torch.randn(3, 6, 2, 2)
    for one, other in zip(first(x), second(x), strict=True):
        assert torch.equal(one, other)


@kinds
def test_a_trained_weight_can_be_loaded(plu):
    weight = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    layer = Invertible1x1Conv.from_weight(weight, plu=plu)
    x = torch.randn(3, 5, 4, 4)

    torch.testing.assert_close(layer(x)[0], torch.einsum("oc,bcij->boij", weight, x))
    expected = 16 * torch.linalg.slogdet(weight).logabsdet
    torch.testing.assert_close(layer(x)[1], expected.expand(3), rtol=1e-5, atol=1e-4)


@kinds
def test_every_parameter_trains_to_whiten(plu):
    torch.manual_seed(0)
    mixing = torch.randn(4, 4)
    layer = Invertible1x1Conv(4, plu=plu)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    before = {name: value.clone() for name, value in layer.named_parameters()}

    for _ in range(300):
        y, log_det = layer(torch.randn(256, 4) @ mixing.t())
        loss = (y.square().sum(dim=1) / 2 - log_det).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert all(not torch.equal(value, before[name]) for name, value in layer.named_parameters())
    # The optimum is W mixing = a rotation, and the loss there C / 2 + log |det mixing|.
    optimum = 2 + torch.linalg.slogdet(mixing).logabsdet
    assert abs(loss.item() - optimum) < 0.3


@kinds
def test_a_normalisation_is_folded_in(plu):
    layer, x = Invertible1x1Conv(3, plu=plu), torch.randn(2, 3, 4, 4)
    log_scale, shift = 0.3 * torch.randn(2, 3)
    given = {"log_scale": log_scale, "shift": shift}
    normalised = log_scale.exp()[:, None, None] * (x + shift[:, None, None])

    (y, log_det), (plain, plain_log_det) = layer(x, **given), layer(normalised)
    torch.testing.assert_close(y, plain)
    torch.testing.assert_close(log_det, plain_log_det + 16 * log_scale.sum())
    torch.testing.assert_close(layer.inverse(y, **given)[0], x, rtol=1e-4, atol=1e-5)


def test_a_known_log_determinant_is_taken():
    layer = Invertible1x1Conv(3, plu=False)
    _, log_det = layer(torch.randn(2, 3, 4), log_abs_det=torch.tensor(2.0))
    assert log_det.tolist() == [8.0, 8.0]


def test_double_layers_compute_in_double():
    layer = Invertible1x1Conv(3, dtype=torch.float64)
    y, log_det = layer(torch.randn(2, 3, 4, 4, dtype=torch.float64))
    assert y.dtype == log_det.dtype == torch.float64


@kinds
def test_compiles_to_one_graph(plu):
    layer, x = Invertible1x1Conv(3, plu=plu), torch.randn(2, 3, 4, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(x), layer(x), strict=True):
        torch.testing.assert_close(one, other)


def test_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="channels must be at least 1; got 0"):
        Invertible1x1Conv(0)
    with pytest.raises(ValueError, match=r"weight must have shape \(C, C\) = \(3, 3\); got \(2, 2"):
        Invertible1x1Conv(3).load_weight(torch.eye(2))
    with pytest.raises(ValueError, match="weight must be invertible; got log_diag"):
        Invertible1x1Conv.from_weight(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"x must have shape"):
        Invertible1x1Conv(3)(torch.ones(3))
