"""AffineCoupling transforms one part by the other, invertibly, and replays itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dgm_fast.layers import AffineCoupling

COLOUR = (torch.arange(3)[:, None] + torch.arange(3)) % 2 == 0
CASES = {
    "vectors": (2, 6, (5,), {"kept": 2}),
    "first part": (3, 4, (5,), {"kept": 3, "part": "first"}),
    "additive": (2, 3, (5,), {"kept": 2, "additive": True}),
    "rescaled": (2, 6, (5,), {"kept": 2, "rescaled_channels": 3}),
    "bounded": (2, 6, (5,), {"kept": 2, "scale_map": "tanh", "bound": 1.5}),
    "shift first": (2, 6, (5,), {"kept": 2, "scale_map": "sigmoid", "shift_first": True}),
    "images": (2, 4, (4, 3, 3), {"kept": 2}),
    "checkerboard": (2, 4, (2, 3, 3), {"mask": COLOUR}),
}


def make(name):
    inputs, outputs, event, options = CASES[name]
    torch.manual_seed(0)
    if len(event) == 1:
        net = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))
    else:
        net = nn.Sequential(nn.Conv2d(inputs, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, outputs, 1))
    return AffineCoupling(net, **options).double(), torch.randn(4, *event, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_inverse_and_log_det(name):
    coupling, x = make(name)
    y, log_det = coupling(x)
    again, back = coupling.inverse(y)

    assert not torch.allclose(y, x)
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(back, -log_det)

    one = x[:1]
    jacobian = torch.autograd.functional.jacobian(lambda v: coupling(v)[0], one)
    expected = torch.linalg.slogdet(jacobian.view(one.numel(), -1)).logabsdet
    torch.testing.assert_close(log_det[0], expected)


@pytest.mark.parametrize("name", CASES)
def test_the_kept_part_passes_unchanged(name):
    coupling, x = make(name)
    y, _ = coupling(x)
    options = CASES[name][3]
    if "mask" in options:
        kept = options["mask"].expand_as(x)
    else:
        kept = torch.zeros_like(x, dtype=torch.bool)
        which = slice(-options["kept"], None) if "part" in options else slice(options["kept"])
        kept[:, which] = True
    assert torch.equal(y == x, kept)


@pytest.mark.parametrize("name", CASES)
def test_replay_recovers_the_input_with_its_graph(name):
    coupling, x = make(name)
    x.requires_grad_()
    y, log_det = coupling(x)
    directions = torch.randn_like(y), torch.randn_like(log_det)
    inputs = [x, *coupling.parameters()]
    outputs = [y, *([log_det] if log_det.requires_grad else [])]
    expected = torch.autograd.grad(outputs, inputs, directions[: len(outputs)])

    given = y.detach().clone()
    leaf, *again = coupling.replay(given)
    found = torch.autograd.grad(
        again[: len(outputs)], [leaf, *coupling.parameters()], directions[: len(outputs)]
    )

    assert torch.equal(given, y)
    assert leaf.is_leaf
    torch.testing.assert_close(leaf, x)
    torch.testing.assert_close(again, [y, log_det])
    torch.testing.assert_close(found, expected)


def test_replay_calls_the_conditioner_once():
    coupling, x = make("vectors")
    y, _ = coupling(x)
    calls = []
    coupling.conditioner.register_forward_hook(lambda *_: calls.append(1))
    coupling.replay(y)
    assert len(calls) == 1


def test_a_context_reaches_the_conditioner():
    class Net(nn.Module):
        def forward(self, kept, context):
            return torch.cat([context, kept], dim=1)

    x, context = torch.randn(3, 4), torch.randn(3, 2)
    y, log_det = AffineCoupling(Net(), kept=2)(x, context)
    torch.testing.assert_close(y[:, 2:], x[:, 2:] * context.exp() + x[:, :2])
    torch.testing.assert_close(log_det, context.sum(1))


def test_autocast_runs_the_conditioner_alone_in_low_precision():
    coupling, x = make("vectors")
    coupling, x = coupling.float(), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = coupling(x)
        again, _ = coupling.inverse(y)
    assert (y.dtype, log_det.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(again, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "kept or mask must be given"),
        ({"kept": 1, "mask": COLOUR}, "kept or mask must be given"),
        ({"kept": 0}, "kept must be at least 1"),
        ({"kept": 1, "part": "middle"}, "part must be"),
        ({"kept": 1, "additive": True, "rescaled_channels": 2}, "rescaled_channels must be 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        AffineCoupling(nn.Identity(), **options)


def test_too_few_channels():
    with pytest.raises(ValueError, match="x must have more than kept = 4 channels"):
        AffineCoupling(nn.Identity(), kept=4)(torch.randn(2, 4))
