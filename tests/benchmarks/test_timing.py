from __future__ import annotations

import time

import pytest
import torch

from benchmarks.memory import peak_mib
from benchmarks.timing import MAX_SETS, Budget, Timed, fresh_sets, interleave, spread

CPU = torch.device("cpu")


def recorded(names, sets, log):
    """Calls that write down which column ran on which set."""
    return {
        name: [
            Timed(lambda name=name, place=place: log.append((name, place))) for place in range(sets)
        ]
        for name in names
    }


def test_every_round_times_every_column_once_in_changing_orders():
    log = []
    names = ["a", "b", "c"]
    interleave(recorded(names, 2, log), CPU, Budget(seconds=0, repeats=20))

    rounds = [tuple(name for name, _ in log[at : at + 3]) for at in range(0, len(log), 3)]
    assert all(sorted(each) == names for each in rounds)
    assert len(set(rounds)) > 1


def test_no_call_finds_the_inputs_of_the_call_before_it():
    log = []
    interleave(recorded(["a", "b", "c"], 7, log), CPU, Budget(seconds=0, repeats=20))

    places = [place for _, place in log]
    assert all(len(set(places[at : at + 7])) == 7 for at in range(len(places) - 6))


def test_quantiles_of_known_samples():
    found = spread([float(us) for us in range(101)])
    assert (found.p20_us, found.median_us, found.p80_us, found.repeats) == (20, 50, 80, 101)


def test_times_are_those_of_the_calls():
    calls = {"slow": [Timed(lambda: time.sleep(0.004))], "fast": [Timed(lambda: None)]}
    found = interleave(calls, CPU, Budget(seconds=0, repeats=7))

    assert 4000 <= found["slow"].p20_us <= found["slow"].median_us <= found["slow"].p80_us
    assert found["fast"].median_us < 4000


def test_reset_runs_after_every_call_and_is_not_timed():
    log = []
    timed = Timed(lambda: log.append("call"), lambda: (log.append("reset"), time.sleep(0.02)))
    found = interleave({"a": [timed]}, CPU, Budget(seconds=0, repeats=5))

    assert log == ["call", "reset"] * (len(log) // 2)
    assert found["a"].p80_us < 20_000


def test_a_slow_column_stops_at_its_share_and_the_others_go_on():
    calls = {"slow": [Timed(lambda: time.sleep(0.03))], "fast": [Timed(lambda: None)]}
    found = interleave(calls, CPU, Budget(seconds=0.05, repeats=30, least=3))

    assert 3 <= found["slow"].repeats < 30
    assert found["fast"].repeats >= 30


def test_a_column_without_calls_is_refused_by_name():
    with pytest.raises(ValueError, match=r"columns must .* 'empty'"):
        interleave({"empty": []}, CPU)


def test_fresh_sets_fill_memory_of_their_own():
    mask = object()
    sets = fresh_sets({"x": torch.randn(256, 1024), "mask": mask}, total_mib=8)

    assert len(sets) == 8
    assert len({each["x"].data_ptr() for each in sets}) == 8
    assert all(torch.equal(each["x"], sets[0]["x"]) and each["mask"] is mask for each in sets)


@pytest.mark.parametrize(("elements", "count"), [(1, MAX_SETS), (2**22, 2)])
def test_fresh_sets_are_neither_too_many_nor_alone(elements, count):
    assert len(fresh_sets({"x": torch.zeros(elements)}, total_mib=4)) == count


def test_inputs_without_tensors_need_one_set():
    assert fresh_sets({"shape": (3, 4)}, total_mib=64) == [{"shape": (3, 4)}]


def test_peak_memory_counts_what_is_held_at_once():
    x = torch.randn(256, 1024)

    def two_at_once():
        return (x + 1) * 2

    def one_after_the_other():
        for _ in range(5):
            x + 1

    # Each tensor is 1 MiB; x itself was there before.
    assert peak_mib(Timed(two_at_once), CPU) == pytest.approx(2, abs=0.01)
    assert peak_mib(Timed(one_after_the_other), CPU) == pytest.approx(1, abs=0.01)


def test_peak_memory_of_a_backward_holds_saved_tensors_and_gradients():
    x = torch.randn(256, 1024, requires_grad=True)

    def forward_backward():
        x.exp().backward(torch.ones(()).expand_as(x))

    timed = Timed(forward_backward, lambda: setattr(x, "grad", None))
    assert peak_mib(timed, CPU) >= 2
    assert x.grad is None
