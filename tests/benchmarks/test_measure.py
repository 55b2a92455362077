from __future__ import annotations

import dataclasses

import pytest
import torch
from rich.console import Console

from benchmarks import columns, compile_ahead, measure, run, verify
from benchmarks.measure import Workload
from benchmarks.timing import Budget
from dgm_fast._core.cases import Cost, OpCase, OpCases, Prepared

CPU = torch.device("cpu")
BUDGET = Budget(seconds=0, repeats=3, least=3)


def scale(x, factor):
    return x * factor


def ours(x, factor, *, impl):
    return x.mul(factor)


def ours_forward_is_wrong(x, factor, *, impl):
    return x * factor + 1e-3


def ours_backward_is_wrong(x, factor, *, impl):
    return x.detach() * factor + 0 * x


def missing_library(inputs):
    raise ImportError("somelib is not installed")


def rival(inputs):
    x, factor = inputs["x"], inputs["factor"]
    return Prepared(lambda: factor * x, (x,))


def copy(inputs):
    return Prepared(inputs["x"].clone, (inputs["x"],))


def wrong_rival(inputs):
    return Prepared(lambda: inputs["x"] + 1, (inputs["x"],))


def inputs_of(device, dtype, generator):
    return {"x": torch.randn(64, 32, generator=generator).to(device, dtype), "factor": 3.0}


def made(function, rivals=None):
    case = OpCase("small", inputs_of, ("x",), lambda inputs, backward: Cost(2**20, 0))
    return OpCases(
        function=function,
        reference=scale,
        cases=(case,),
        terms=lambda inputs: (1, 1),
        with_batch=lambda inputs, size: inputs,
        workloads=(case,),
        rivals=rivals or {},
    )


@pytest.fixture(autouse=True)
def few_sets_and_no_compiler(monkeypatch):
    monkeypatch.setattr(measure, "rotation_mib", lambda device: 0.05)
    monkeypatch.setattr(columns, "COMPILE_MODES", {})
    monkeypatch.setattr(measure.floors, "copy_rate", lambda device: 2.0**30)
    monkeypatch.setattr(measure.floors, "matmul_rate", lambda device, dtype: 1e9)


def measured(cases, device=CPU, **more):
    work = Workload("scale", cases, cases.workloads[0], device, torch.float32)
    return measure.measure(work, BUDGET, **more)


def test_every_column_is_timed_forward_and_with_backward():
    outcome = measured(made(ours, {"best_eager": rival, "anchor:copy": copy}))

    found = {(each.direction, each.column) for each in outcome.measurements}
    names = ("eager", "best_eager", "anchor:copy", "ours:auto")
    assert found == {(d, name) for d in ("forward", "forward_backward") for name in names}
    assert all(each.median_us > 0 and each.repeats >= 3 for each in outcome.measurements)
    assert all(
        each.floor_us == pytest.approx(1e6 / 2**10, rel=1e-3) for each in outcome.measurements
    )


@pytest.mark.gpu
def test_a_gpu_is_timed_by_its_own_clock_and_allocator():
    outcome = measured(made(ours, {"best_eager": rival}), torch.device("cuda"))

    assert len(outcome.measurements) == 6
    assert all(0 < each.p20_us <= each.median_us <= each.p80_us for each in outcome.measurements)
    # The result alone is 64 x 32 float32.
    assert all(each.peak_mib >= 2**13 / 2**20 for each in outcome.measurements)


def test_columns_are_chosen_by_the_beginnings_of_their_names():
    outcome = measured(made(ours, {"best_eager": rival}), wanted=("ours",))
    assert {each.column for each in outcome.measurements} == {"eager", "ours:auto"}


@pytest.mark.parametrize("function", [ours_forward_is_wrong, ours_backward_is_wrong])
def test_a_wrong_column_of_ours_refuses_to_be_timed(function):
    with pytest.raises(verify.RedContract, match="ours:auto is wrong"):
        measured(made(function))


def test_a_rival_that_is_wrong_or_missing_is_left_out_with_its_reason():
    outcome = measured(made(ours, {"best_eager": wrong_rival, "outside:somelib": missing_library}))

    assert {each.column for each in outcome.measurements} == {"eager", "ours:auto"}
    assert "best_eager is wrong" in outcome.skipped["best_eager"]
    assert outcome.skipped["outside:somelib"] == "ImportError: somelib is not installed"


def test_a_column_that_leaves_a_gradient_out_is_not_timed_with_backward():
    extra = torch.ones((), requires_grad=True)
    outcome = measured(
        made(
            ours,
            {"anchor:partial": lambda inputs: Prepared(inputs["x"].clone, (inputs["x"], extra))},
        )
    )
    assert "leaves a gradient out" in outcome.skipped["anchor:partial"]
    assert ("forward_backward", "anchor:partial") not in {
        (each.direction, each.column) for each in outcome.measurements
    }


def never_returns(inputs):
    def spin():
        while True:
            pass

    return Prepared(spin, (inputs["x"],))


def test_what_does_not_compile_in_time_is_given_up(monkeypatch):
    monkeypatch.setattr(measure, "COMPILE_LIMIT_S", 0.1)
    monkeypatch.setattr(columns.Column, "is_compiled", property(lambda self: "slow" in self.name))
    outcome = measured(made(ours, {"compile_slow": never_returns}))

    assert outcome.gave_up == {"compile_slow"}
    assert outcome.skipped["compile_slow"] == "TimeoutError: not compiled within 0.1 s"
    assert {each.column for each in outcome.measurements} == {"eager", "ours:auto"}


def test_columns_can_be_left_out():
    outcome = measured(made(ours, {"best_eager": rival}), without={"best_eager"})
    assert {each.column for each in outcome.measurements} == {"eager", "ours:auto"}


def test_a_red_contract_refuses_to_be_timed(tmp_path):
    contract = tmp_path / "test_contract.py"
    contract.write_text("def test_scale(): assert 1 == 2\ndef test_other(): pass\n")

    with pytest.raises(verify.RedContract, match="1 == 2"):
        verify.check_contract("scale", str(contract))
    verify.check_contract("other", str(contract))


def test_an_op_without_a_contract_refuses_to_be_timed(tmp_path):
    contract = tmp_path / "test_contract.py"
    contract.write_text("def test_other(): pass\n")

    with pytest.raises(verify.RedContract, match="not green"):
        verify.check_contract("scale", str(contract))


REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_contract" name="test_a[green-triton-cuda]"/>
<testcase classname="tests.test_contract" name="test_b[green-triton-cuda]"><skipped/></testcase>
<testcase classname="tests.test_contract" name="test_a[red-triton-cuda]"><failure/></testcase>
<testcase classname="tests.test_contract" name="test_a[broken-triton-cuda]"><error/></testcase>
<testcase classname="tests.test_contract" name="test_a[unseen-cpp-cpu]"><skipped/></testcase>
</testsuite></testsuites>"""


def test_a_report_of_the_contract_tells_which_ops_are_green(tmp_path):
    report = tmp_path / "tests.xml"
    report.write_text(REPORT)

    verify.check_report("green", report)
    for op in ("red", "broken", "unseen", "absent"):
        with pytest.raises(verify.RedContract, match=f"{op}: .*tests.xml is not green"):
            verify.check_report(op, report)


@pytest.mark.slow
def test_rivals_compiled_ahead_are_found_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # What fills a cache need not be fast: neither vector instructions, nor headers for more of it.
    monkeypatch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "0")
    monkeypatch.setenv("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")
    found = columns.find_ops()["diffusion_noise"]
    small = next(case for case in found.workloads if case.name == "8x64")
    workload = Workload("diffusion_noise", found, small, CPU, torch.float32)
    said = []

    compile_ahead.fill_cache([workload], ("compile_default",), 1, said.append)
    assert said == ["1 of 1: diffusion_noise 8x64 float32"]
    assert len(list((tmp_path / "fxgraph").glob("*/*"))) == 3


def test_the_runner_reports_a_red_op_and_records_nothing_of_it(monkeypatch, tmp_path):
    console = Console(record=True, width=200)
    found = {"green": made(ours), "red": made(ours_forward_is_wrong)}
    monkeypatch.setattr(run, "find_ops", lambda: found)
    monkeypatch.setattr(run, "check_contract", lambda op: None)
    monkeypatch.setattr(run.Options, "budget", BUDGET)

    assert run.main(run.Options(out=tmp_path), console) == 1
    assert [path.stem for path in tmp_path.glob("*/*.csv")] == ["green"]
    assert "red is red and is not timed" in console.export_text()


def test_a_first_look_records_nothing(monkeypatch):
    monkeypatch.setattr(run, "find_ops", lambda: {"green": made(ours)})
    monkeypatch.setattr(run, "check_contract", lambda op: None)
    monkeypatch.setattr(run.record, "append", lambda *_: pytest.fail("recorded"))

    assert run.main(run.Options(quick=True), Console(record=True)) == 0


def test_an_unknown_op_or_case_is_named():
    with pytest.raises(ValueError, match=r"op must be among .*; got nonsense"):
        run.Options(op=("nonsense",)).chosen()
    with pytest.raises(ValueError, match=r"case must be among .*; got 4x64"):
        run.Options(op=("wavenet_layer",), case=("4x64",)).chosen()


def test_a_forced_implementation_is_refused(monkeypatch):
    monkeypatch.setenv("DGM_FAST_IMPL", "reference")
    with pytest.raises(ValueError, match="DGM_FAST_IMPL must be unset"):
        run.prepare_process()


def test_every_op_with_cases_is_found_and_every_workload_has_a_cost():
    found = columns.find_ops()
    assert {"masked_linear", "philox"} <= set(found)

    for op, cases in found.items():
        assert all(case.cost is not None for case in cases.workloads), op


def test_workloads_follow_device_case_and_dtype():
    case = made(ours).workloads[0]
    gpu_only = dataclasses.replace(case, name="large", devices=("cuda",))
    cases = dataclasses.replace(made(ours), workloads=(case, gpu_only))

    def names(**options):
        found = run.Options(**options).workloads("scale", cases)
        return [(each.case.name, each.dtype_name) for each in found]

    assert names() == [("small", "float32")]
    assert names(case=("large",), dtype=("bfloat16",)) == [("large", "bfloat16")]
    assert ("large", "bfloat16") in names(device="cuda")
