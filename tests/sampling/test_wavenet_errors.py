"""What runs WaveNet's samplers, and what they refuse."""

from __future__ import annotations

import pytest
import torch

import dgm_fast
from dgm_fast._core import extension
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.sampling.wavenet import op
from tests.families.wavenet_models import (
    VARIANTS,
    make_model,
)
from tests.sampling.pixel_cases import needs_kernel
from tests.sampling.wavenet_cases import (
    T,
    conditions,
    make_sampler,
)


def test_the_choice_of_an_implementation():
    sampler, model = make_sampler(VARIANTS["categorical"])
    assert sampler.impl == ("reference" if extension.cpp_missing else "cpp")
    assert make_sampler(VARIANTS["categorical"], dtype=torch.float64)[0].impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="float64"):
        make_sampler(VARIANTS["categorical"], "cpp", torch.float64)
    with pytest.raises(ImplementationUnavailable, match="'triton'"):
        make_sampler(VARIANTS["categorical"], "triton")
    for name in ("reference", "triton"):
        with dgm_fast.use_impl(name):
            assert model.sampler().impl == "reference"
    assert make_model(VARIANTS["categorical"], impl="reference").sampler().impl == "reference"
    assert model.sampler(impl="reference").impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="'triton'"):
        model.sampler(impl="triton")


@needs_kernel
def test_the_operator_is_what_its_schema_says():
    sampler, model = make_sampler(VARIANTS["both"], "cpp")
    label, local, _ = conditions(VARIANTS["both"], model, 3)
    state, packed = sampler.start(3, label), sampler._packed
    condition, features = state.condition, local.transpose(1, 2).contiguous()
    first = state.rings, state.recent, packed.weights, packed.sizes, packed.dilations
    last = (0, model.output.parameters, 8, False, 1.0, 3, 0.9, -7.0)
    noise, given = sampler.draw_noise(3, T), torch.zeros(3, T, dtype=torch.int64)
    tests = ("test_schema", "test_faketensor")
    for levels, keep in (((None, noise), True), ((None, noise), False), ((given, None), False)):
        arguments = (*first, condition, features, *levels, None, [], *last, keep)
        torch.library.opcheck(op.draw["cpp"], arguments, test_utils=tests)

    # Noise is drawn beforehand.
    seeded = (None, None, torch.tensor(7), [0, 0, T])
    with pytest.raises(RuntimeError, match="on a CPU a sampler takes noise, and not the seed"):
        op.draw["cpp"](*first, condition, features, *seeded, *last, True)


GOOD = {"noise": torch.rand(3, 5, 1), "features": torch.zeros(3, 2, 5)}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"noise": torch.rand(2, 5, 1)}, ValueError, r"noise must have shape \(B, n, N\) = \(3,"),
        ({"noise": torch.rand(3, 5)}, ValueError, "noise must have shape"),
        ({"noise": torch.ones(3, 5, 1).long()}, TypeError, "noise must be a floating-point"),
        ({"noise": None}, ValueError, "length must be given where noise is not; got None"),
        ({"length": 5}, ValueError, "length must be given where noise is not; got 5"),
        ({"noise": None, "length": -2}, ValueError, "length must not be negative; got -2"),
        ({"temperature": -1.0}, ValueError, "temperature must be at least 0; got -1.0"),
        ({"temperature": float("nan")}, ValueError, "temperature must be at least 0; got nan"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1; got 0"),
        ({"top_p": 1.5}, ValueError, r"top_p must be in \(0, 1\]; got 1.5"),
        ({"features": None}, ValueError, "features must hold 2 features of each sample; got None"),
        ({"features": torch.zeros(3, 2, 4)}, ValueError, r"features must have .*\(3, 2, 4\)"),
        ({"features": torch.zeros(3, 2, 5).long()}, TypeError, "features must be a floating"),
        ({"parameters_out": torch.zeros(3, 5, 7)}, ValueError, "parameters_out must have shape"),
    ],
)
def test_drawing_errors_name_the_argument(impl, options, error, match):
    sampler, _ = make_sampler(VARIANTS["both"], impl)
    state = sampler.start(3, torch.zeros(3).long())
    with pytest.raises(error, match=match):
        sampler.draw(state, **(GOOD | options))


def test_components_of_a_mixture_are_not_left_out(impl):
    sampler, model = make_sampler(VARIANTS["mixture of 256"], impl)
    with pytest.raises(ValueError, match=r"top_k and top_p .* LogisticMixtureWaveform: got 3 and"):
        sampler.draw(sampler.start(2, torch.zeros(2).long()), 5, top_k=3)
    with pytest.raises(ValueError, match=r"top_k and top_p .* logistic_mixture: got None and"):
        model.sample(2, torch.zeros(2).long(), length=5, top_p=0.5)


@pytest.mark.parametrize(
    ("levels", "error", "match"),
    [
        (torch.zeros(3, 5), TypeError, "levels must be int64; got torch.float32"),
        (torch.zeros(2, 5).long(), ValueError, r"levels must have shape \(B, n\) = \(3, n\)"),
        (torch.full((3, 5), 8), ValueError, "levels must hold values in 0 .. 7; got 8 to 8"),
        (torch.full((3, 5), -1), ValueError, "levels must hold values in 0 .. 7; got -1 to -1"),
    ],
)
def test_feeding_errors_name_the_argument(impl, levels, error, match):
    sampler, _ = make_sampler(VARIANTS["both"], impl)
    state = sampler.start(3, torch.zeros(3).long())
    with pytest.raises(error, match=match):
        sampler.feed(state, levels, torch.zeros(3, 2, 5))


def test_starting_errors_name_the_argument(impl):
    sampler, _ = make_sampler(VARIANTS["both"], impl)
    for context, error, match in (
        (None, ValueError, "context must hold labels of 3 classes; got None"),
        (torch.zeros(3), TypeError, "context must be int64 labels"),
        (torch.zeros(2).long(), ValueError, r"context must have shape \(B,\) = \(3,\)"),
        (torch.full((3,), 3), ValueError, "context must hold values in 0 .. 2; got 3 to 3"),
    ):
        with pytest.raises(error, match=match):
            sampler.start(3, context)
    with pytest.raises(ValueError, match="batch must not be negative; got -1"):
        sampler.start(-1)
    plain, _ = make_sampler(VARIANTS["categorical"], impl)
    with pytest.raises(ValueError, match="context must be None without classes; got shape"):
        plain.start(3, torch.zeros(3).long())
    with pytest.raises(ValueError, match="state must be of this sampler"):
        plain.draw(make_sampler(VARIANTS["scalar"], impl)[0].start(3), 5)
