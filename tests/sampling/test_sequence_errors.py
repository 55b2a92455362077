"""What samplers of sequences refuse."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.sampling import (
    TransformerSampler,
)
from tests.families.sequence_models import (
    VARIANTS,
    V,
    make_model,
    tokens,
)

every_impl = pytest.mark.usefixtures("sequence_impl")


def test_without_room_to_slide_the_end_is_an_error():
    model = make_model(VARIANTS["transformer"])
    sampler = TransformerSampler(model.described())
    state = sampler.feed(sampler.start(2), tokens(2, 4))
    with pytest.raises(
        ValueError, match="beyond the 9 places of the network; got 6 tokens after 4"
    ):
        sampler.draw(state, 6)
    with pytest.raises(
        ValueError, match="beyond the 9 places of the network; got 7 tokens after 4"
    ):
        sampler.feed(state, tokens(2, 7))
    sliding, _ = model.sampler().draw(
        model.sampler().feed(model.sampler().start(2), tokens(2, 4)), 5
    )
    assert sampler.draw(state, 5)[0].shape == sliding.shape == (2, 5)


@every_impl
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"noise": torch.rand(2, 5, 1)}, ValueError, r"noise must have shape \(B, n, 1\) = \(3,"),
        ({"noise": torch.ones(3, 5, 1).long()}, TypeError, "noise must be a floating-point"),
        ({"noise": None}, ValueError, "length must be given where noise is not; got None"),
        ({"length": 5}, ValueError, "length must be given where noise is not; got 5"),
        ({"noise": None, "length": -2}, ValueError, "length must not be negative; got -2"),
        ({"temperature": -1.0}, ValueError, "temperature must be at least 0; got -1.0"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1; got 0"),
        ({"top_p": 2.0}, ValueError, r"top_p must be in \(0, 1\]; got 2.0"),
        (
            {"given": torch.zeros(3, 4).long()},
            ValueError,
            r"given must have shape \(B, n\) = \(3, 5",
        ),
        (
            {"given": torch.zeros(3, 5)},
            TypeError,
            "given must have an integer dtype; got torch.float32",
        ),
        ({"given": "to be"}, TypeError, "given must be a torch.Tensor; got str"),
        ({"given": torch.full((3, 5), V)}, ValueError, "given must hold values in 0 .. 2"),
        ({"parameters_out": torch.zeros(3, 5, 7)}, ValueError, "parameters_out must have shape"),
    ],
)
@pytest.mark.parametrize("name", ["transformer, labels", "gru, tied"])
def test_drawing_errors_name_the_argument(name, options, error, match):
    sampler = make_model(VARIANTS[name]).sampler()
    state = sampler.start(3, torch.zeros(3).long())
    with pytest.raises(error, match=match):
        sampler.draw(state, **({"noise": torch.rand(3, 5, 1)} | options))


def test_other_errors_name_the_argument():
    model = make_model(VARIANTS["transformer, labels"])
    sampler = model.sampler()
    for context, error, match in (
        (None, ValueError, "context must hold labels of 2 classes; got None"),
        (torch.zeros(3), TypeError, "context must be int64 labels"),
        (torch.full((3,), 2), ValueError, "context must hold values in 0 .. 1; got 2 to 2"),
    ):
        with pytest.raises(error, match=match):
            sampler.start(3, context)
    with pytest.raises(ValueError, match="batch must not be negative; got -1"):
        sampler.start(-1)
    state = sampler.start(3, torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"tokens must hold values in 0 .. 2; got -1 to -1"):
        sampler.feed(state, torch.full((3, 2), -1))
    ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(1)], layout=torch.jagged)
    for wrong, match in (
        ([[0, 1], [2]], "tokens must be a torch.Tensor; got list"),
        (ragged, "tokens must have rows of one length; got a nested tensor"),
        (torch.ones(3, 2).bool(), "tokens must have an integer dtype; got torch.bool"),
    ):
        with pytest.raises(TypeError, match=match):
            sampler.feed(state, wrong)
    with pytest.raises(TypeError, match=r"given must be a torch.Tensor; got str"):
        make_model(VARIANTS["gru"]).sample(1, given="to be")
    with pytest.raises(ValueError, match=r"keep must be in 0 .. 8; got 9"):
        TransformerSampler(model.described(), keep=9)
    with pytest.raises(ValueError, match=r"mode must be one of auto, eager, .*; got 'fast'"):
        model.sampler(mode="fast")
    with pytest.raises(ValueError, match="mode must not be graph for weights on cpu"):
        model.sampler(mode="graph")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"shape": -1}, "shape must not hold negative sizes"),
        ({"length": 0}, "length must be positive; got 0"),
        (
            {"given": torch.zeros(6)},
            r"given must have shape \(\*, at most length = 5\); got \(6,\)",
        ),
        ({"given": torch.zeros(3, 2)}, "given must have dims .* broadcast"),
        ({"given": torch.full((2,), V)}, "given must hold values in 0 .. 2"),
        ({"noise": torch.rand(4, 4, 1)}, r"noise must have shape \(n, T, 1\) = \(4, 5, 1\)"),
        ({"top_k": -3}, "top_k must be at least 1; got -3"),
    ],
)
def test_sampling_errors_name_the_argument(options, match):
    with pytest.raises(ValueError, match=match):
        make_model(VARIANTS["gru"]).sample(**({"shape": 4, "length": 5} | options))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.uint64], ids=str)
@every_impl
def test_tokens_of_any_integer_dtype_are_the_same(dtype):
    model = make_model(VARIANTS["gru"])
    sampler, x, noise = model.sampler(), tokens(2, 4), torch.rand(2, 9, 1)
    expected = model.sample(2, length=9, given=x, noise=noise)
    given = x.to(dtype)
    assert torch.equal(model.log_prob(given), model.log_prob(x))
    assert torch.equal(model.sample(2, length=9, given=given, noise=noise), expected)
    for sampled, state in (
        sampler.draw(sampler.feed(sampler.start(2), given), noise=noise[:, 4:]),
        sampler.draw(sampler.start(2), noise=noise[:, :4], given=given),
    ):
        assert sampled.dtype is torch.int64
        assert torch.equal(state.tokens, expected[:, : state.time])
    with pytest.raises(ValueError, match=r"tokens must hold values in 0 .. 2; got 9 to 9"):
        sampler.feed(sampler.start(1), torch.full((1, 1), 9, dtype=dtype))
