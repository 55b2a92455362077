"""The sweep that solves the transposed system of an autoregressive step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.sampling.masked_mlp import TransposedSweep, op
from tests.sampling.masked_cases import (
    SHAPES,
    Shape,
    assert_solved,
    each_of_few,
    make_network,
    make_system,
)
from tests.sampling.pixel_cases import needs_kernel

pytestmark = needs_kernel


@pytest.mark.parametrize("parameters", [2, 17])
@pytest.mark.parametrize("name", SHAPES)
def test_it_solves_the_system(name, parameters):
    network, system, transposed = make_system(SHAPES[name], parameters, 21)
    assert_solved(TransposedSweep(network).solve_transposed(*system), system, transposed)


@pytest.mark.parametrize("batch", [0, 1, 8, 9, 70])
@each_of_few
def test_bits_depend_neither_on_the_batch_nor_on_threads_nor_on_blocks(shape, batch):
    network, system, _ = make_system(replace(shape, direct=False), 2, 150)
    *some, hidden = system
    some = (*(each[:batch] for each in some), [each[:batch] for each in hidden])
    sweep, before = TransposedSweep(network), torch.get_num_threads()
    whole = sweep.solve_transposed(*system)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(sweep.solve_transposed(*some), whole[:batch])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(TransposedSweep(network, 5).solve_transposed(*system), whole)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e-42])
def test_what_is_no_number_stays_in_its_row_and_goes_to_earlier_features_alone(bad):
    network, system, _ = make_system(SHAPES["residual"], 2, 10)
    expected = TransposedSweep(network).solve_transposed(*system)
    grad, slopes, by_parameters, hidden = (
        [each.clone() for each in part] if isinstance(part, list) else part.clone()
        for part in system
    )
    grad[3, 20] = bad
    for each in hidden:
        each[4] = bad
    found = TransposedSweep(network).solve_transposed(grad, slopes, by_parameters, hidden)
    others = [0, 1, 2, 5, 6, 7, 8, 9]
    assert torch.equal(found[others], expected[others])
    assert torch.equal(found[3, 21:], expected[3, 21:])
    assert found[3, 20].isfinite() == (bad == 1e-42)
    # A unit of no number passes nothing on, nor does one so small that it counts as zero.
    if bad != torch.inf:
        assert torch.equal(found[4], grad[4] / slopes[4])


def test_narrow_tensors_are_solved_in_float32():
    network, system, _ = make_system(SHAPES["two layers"], 2, 9)
    *numbers, hidden = system
    narrow = (*(each.bfloat16() for each in numbers), [each.bfloat16() for each in hidden])
    wide = (*(each.float() for each in narrow[:-1]), [each.float() for each in narrow[-1]])
    sweep = TransposedSweep(network)
    found = sweep.solve_transposed(*narrow)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, sweep.solve_transposed(*wide).bfloat16())


def test_its_operator_keeps_its_word(monkeypatch):
    network, system, _ = make_system(SHAPES["residual"], 2, 9)
    calls, call = [], op.solve_transposed
    monkeypatch.setattr(op, "solve_transposed", lambda *given: calls.append(given) or call(*given))
    TransposedSweep(network).solve_transposed(*system)
    torch.library.opcheck(call, calls[0], test_utils=("test_schema", "test_faketensor"))


def test_what_it_cannot_go_back_through_is_not_chosen():
    network, _ = make_network(SHAPES["residual"], 2)
    relu = replace(network, activation="relu")
    twice = replace(relu, skips=(0, 0, 1, 0, 1))
    assert op.choose_transposed("auto", relu) == op.choose_transposed("cuda", relu) == "cpp"
    for other, message in ((network, "goes back through ReLUs; got elu"), (twice, "two others")):
        assert op.choose_transposed("auto", other) == "reference"
        with pytest.raises(ImplementationUnavailable, match=message):
            op.choose_transposed("cpp", other)
    double = make_network(Shape(), 2)[0]
    double = replace(double, weights=tuple(each.double() for each in double.weights))
    assert op.choose_transposed("auto", double) == "reference"


@pytest.mark.parametrize("place", range(4))
def test_numbers_of_other_sizes_are_named(place):
    network, system, _ = make_system(SHAPES["two layers"], 2, 4)
    name = ("grad", "slopes", "by_parameters", "hidden")[place]
    short = [each[:, :-1] for each in system[3]] if place == 3 else system[place][:, :-1]
    wrong = (*system[:place], short, *system[place + 1 :])
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        TransposedSweep(network).solve_transposed(*wrong)
