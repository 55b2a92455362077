"""The U-Net takes images of any size, and every weight of it matters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dgm_fast.families.diffusion import UNet
from dgm_fast.families.diffusion.unet import Attention, sinusoidal_embedding

SMALL = {"timesteps": 20, "channels": 8, "groups": 4}


def make_network(event_shape, **options):
    torch.manual_seed(0)
    network = UNet(event_shape, **SMALL | options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def inputs(event_shape, batch=3, labels=0):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *event_shape, generator=generator)
    t = torch.randint(0, 20, (batch,), generator=generator)
    label = torch.randint(0, labels, (batch,), generator=generator) if labels else None
    return x, t, label


@pytest.mark.parametrize(
    ("event_shape", "options"),
    [
        ((8, 8), {}),
        ((1, 8, 8), {"blocks": 2}),
        ((28, 28), {"multipliers": (1, 2, 2)}),
        ((28, 28), {"patch": 2, "attention": (1,), "heads": 2}),
        ((3, 7, 5), {"multipliers": (1, 1, 2), "attention": (0, 2)}),
        ((2, 9, 10), {"patch": 4}),
        ((1, 1), {"multipliers": (1, 1)}),
        ((8, 8), {"labels": 4, "frequencies": (3.0, 1.5)}),
        ((8, 8), {"channels": 7}),
    ],
    ids=[
        "one channel", "two blocks", "28-14-7", "patches", "odd", "padded patches", "one pixel",
        "labels and waves", "odd channels",
    ],
)  # fmt: skip
def test_shapes_and_that_every_weight_has_a_gradient(event_shape, options):
    network = make_network(event_shape, **options)
    x, t, label = inputs(event_shape, labels=options.get("labels", 0))
    x.requires_grad_()

    y = network(x, t, label)

    assert y.shape == x.shape
    assert y.is_contiguous()
    y.square().sum().backward()
    assert bool((x.grad != 0).any())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        # Group normalisation takes away what is common to one group; nothing else is without use.
        if not (name.endswith("bias") and "conv1" in name) and event_shape != (1, 1):
            assert bool((parameter.grad != 0).any()), name


def test_a_fresh_network_predicts_zero():
    network = UNet((8, 8), **SMALL)
    assert not network(*inputs((8, 8))).any()


def test_time_label_and_place_matter():
    network = make_network((8, 8), labels=4, attention=(1,))
    x, t, label = inputs((8, 8), labels=4)
    y = network(x, t, label)

    assert not torch.allclose(network(x, (t + 1) % 20, label), y)
    assert not torch.allclose(network(x, t, (label + 1) % 4), y)
    assert not torch.allclose(network(x.flip(-1), t, label).flip(-1), y)


def test_samples_of_a_batch_are_apart():
    network = make_network((8, 8), attention=(0, 1)).eval()
    x, t, _ = inputs((8, 8))
    whole = network(x, t)
    for i in range(3):
        torch.testing.assert_close(network(x[i : i + 1], t[i : i + 1]), whole[i : i + 1])


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_a_softmax_over_all_places(heads):
    torch.manual_seed(0)
    attention = Attention(8, heads, groups=2).double()
    nn.init.normal_(attention.project_out.weight)
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    attention = attention.to(memory_format=torch.channels_last)

    got = attention(x.contiguous(memory_format=torch.channels_last))

    query, key, value = attention.project_in(attention.norm(x)).flatten(2).chunk(3, dim=1)
    width = 8 // heads
    parts = []
    for head in range(heads):
        q, k, v = (each[:, head * width : (head + 1) * width] for each in (query, key, value))
        weights = (torch.einsum("bci,bcj->bij", q, k) / width**0.5).softmax(-1)
        parts.append(torch.einsum("bij,bcj->bci", weights, v))
    expected = x + attention.project_out(torch.cat(parts, dim=1).view(2, 8, 3, 5))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_weights_of_another_dtype_leave_the_inputs_alone(dtype):
    network = make_network((8, 8)).to(dtype)
    x, t, _ = inputs((8, 8))
    exact = make_network((8, 8))(x, t).detach()

    y = network(x, t)

    assert y.dtype is torch.float32
    tolerance = 1e-5 if dtype is torch.float64 else 0.1
    torch.testing.assert_close(y, exact, rtol=0, atol=tolerance * float(exact.abs().max() + 1))


def test_dropout_acts_in_training_only():
    network = make_network((8, 8), dropout=0.5)
    x, t, _ = inputs((8, 8))

    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))


def test_convolutions_read_their_channels_side_by_side():
    network = UNet((8, 8), **SMALL)
    # Weights from a file come with the channels first.
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_patches_fold_as_pixel_unshuffle_does():
    network = UNet((3, 6, 4), **SMALL, patch=2)
    x = torch.randn(2, 3, 6, 4)

    folded = network._fold(x)

    assert torch.equal(folded, nn.functional.pixel_unshuffle(x, 2))
    assert torch.equal(network._unfold(folded, 6, 4), x)
    assert network._unfold(network._fold(x[:0]), 6, 4).shape == (0, 3, 6, 4)


def test_embedding():
    position = torch.tensor([0.0, 1.0, 1000.0])
    embedded = sinusoidal_embedding(position, 9)

    assert embedded.shape == (3, 9)
    assert embedded[0].tolist() == [1.0] * 4 + [0.0] * 5
    assert embedded[1, 0].item() == pytest.approx(torch.tensor(1.0).cos().item())
    slowest = torch.tensor(1000 * 1e4 ** (-3 / 4))
    assert embedded[2, 3].item() == pytest.approx(slowest.cos().item(), abs=1e-4)
    assert embedded[2, 7].item() == pytest.approx(slowest.sin().item(), abs=1e-4)


def test_bad_input_errors():
    with pytest.raises(ValueError, match=r"event_shape must be \(H, W\) or \(C, H, W\); got \(8,"):
        UNet((8,), **SMALL)
    with pytest.raises(ValueError, match=r"heads must divide the widths \[8, 16\]; got 3"):
        UNet((8, 8), attention=(0,), heads=3, **SMALL)
