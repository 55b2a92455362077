"""A WaveNet's sample depends on the samples of its receptive field, on all of them and no other."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.families import WaveNetConfig
from tests.families.wavenet_models import example, make_model, small

SIZES = {
    "one layer": {"layers": 1, "first_kernel": 1},
    "one stack": {"layers": 4},
    "stacks": {"stacks": 3, "layers": 2, "first_kernel": 3},
    "wide kernels": {"kernel": 3, "layers": 2, "stacks": 2},
}
sizes = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def field_of(T, R):
    """Which input a sample may depend on, bool (T, T): the R ones before it."""
    before = torch.arange(T)[:, None] - torch.arange(T)
    return (before >= 1) & (before <= R)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # One layer sees two of what a first kernel of one has moved by one.
        ({"stacks": 1, "layers": 1, "first_kernel": 1}, 2),
        ({"stacks": 1, "layers": 10, "first_kernel": 1}, 1024),
        ({"stacks": 3, "layers": 10, "first_kernel": 2}, 3071),
        ({"stacks": 2, "layers": 3, "kernel": 3, "first_kernel": 4}, 32),
    ],
)
def test_the_formula(options, expected):
    assert WaveNetConfig(**options).receptive_field == expected


@sizes
@torch.enable_grad()
def test_the_jacobian_is_zero_outside_of_the_field_and_only_there(sizes):
    config = small(input="scalar", channels=12, skip_channels=32, head_channels=32, **sizes)
    model = make_model(config, impl="reference").double()
    T = config.receptive_field + 5
    x = (torch.rand(1, 1, T, dtype=torch.float64) * 2 - 1).requires_grad_()

    def sums(values):
        # Of all parameters of a sample with weights of no symmetry: one number each.
        parameters = model._head(model._gates(values, None, None))
        return (parameters * torch.arange(1.0, 9.0, dtype=torch.float64)[:, None]).sum(1)[0]

    jacobian = torch.autograd.functional.jacobian(sums, x).view(T, T)

    assert torch.equal(jacobian != 0, field_of(T, config.receptive_field))


@sizes
@pytest.mark.parametrize("kind", ["one_hot", "scalar"])
@torch.no_grad()
def test_a_changed_sample_moves_those_it_reaches_alone(sizes, kind, impl):
    config = small(input=kind, channels=16, skip_channels=32, head_channels=32, **sizes)
    model = make_model(config, impl=impl)
    T = config.receptive_field + 5
    levels = torch.randint(8, (1, T), generator=torch.Generator().manual_seed(0))
    # Row s has another level at s, as far away as may be; the last row is as it was.
    changed = levels.repeat(T + 1, 1)
    changed[torch.arange(T), torch.arange(T)] = 7 * (levels[0] < 4)

    parameters = model(model.quantizer.decode(changed))

    moved = (parameters[:-1] != parameters[-1:]).any(1).T
    assert torch.equal(moved, field_of(T, config.receptive_field))


@torch.no_grad()
def test_one_hot_lookup_is_the_convolution_of_one_hot_levels():
    for kernel, T in ((1, 5), (2, 5), (4, 3), (7, 3)):
        first = make_model(small(first_kernel=kernel)).first
        levels = torch.randint(8, (2, T))
        one_hot = torch.nn.functional.one_hot(levels, 8).transpose(1, 2).float()
        moved = torch.nn.functional.pad(one_hot, (kernel, -1))
        expected = torch.nn.functional.conv1d(moved, first.weight, first.bias)
        torch.testing.assert_close(first(levels), expected)


@pytest.mark.parametrize("hop", [1, 4])
@pytest.mark.parametrize("upsampling", ["repeat", "transposed"])
@torch.no_grad()
def test_a_frame_moves_the_samples_from_its_own_on(hop, upsampling):
    config = small(features=2, hop=hop, upsampling=upsampling, channels=16)
    model, inputs = make_model(config).double(), example(config, batch=1, dtype=torch.float64)
    expected = model(**inputs)

    # A gate that sees a feature passes it on through the layers after its own, of 2 and 4.
    later = torch.arange(21)[:, None] - torch.arange(21)
    passes = torch.isin(later, torch.tensor([0, 2, 4, 6]))
    for frame in range(inputs["features"].shape[2]):
        features = inputs["features"].clone()
        features[..., frame] += 1
        moved = (model(inputs["x"], features=features) != expected).any(1)[0]
        assert torch.equal(moved, passes[:, frame * hop : (frame + 1) * hop].any(1))
