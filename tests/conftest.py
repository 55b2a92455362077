"""Tiers of the test suite: which of them run here, and a closing account of the rest."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterable

import pytest
import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") == "1"
TIERS = ("cpu", "interpret", "aot", "gpu")


def missing_for(tier: str) -> str | None:
    """Return what this process lacks to run a tier, or None when it lacks nothing."""
    if tier == "gpu" and not torch.cuda.is_available():
        return "no GPU is visible: run `make gpu` on a machine that has one"

    if tier in ("interpret", "aot") and not HAS_TRITON:
        return "Triton is not installed: `pip install 'triton>=3.6'` (Linux)"

    if tier == "interpret" and not INTERPRETING:
        return "needs its own process: `TRITON_INTERPRET=1 pytest -m interpret tests`"

    if tier in ("gpu", "aot") and INTERPRETING:
        return "TRITON_INTERPRET=1 replaces the compiler: unset it"

    return None


def tier_of(keywords: Iterable[str]) -> str:
    """Return the tier that a test's markers put it in; unmarked tests are the cpu tier."""
    return next((tier for tier in TIERS[1:] if tier in keywords), "cpu")


@pytest.fixture(params=["reference", "cpp"])
def impl(request: pytest.FixtureRequest) -> str:
    """Name each implementation that a CPU has, never `auto`: it gives small calls to the first."""
    from dgm_fast._core import extension

    if request.param == "cpp" and extension.cpp_missing is not None:
        pytest.skip(extension.cpp_missing)

    return request.param


@pytest.fixture(scope="session", autouse=True)
def _subnormals_stay():
    """Keep commands run in this process from flushing in it, and in threads that outlive them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_flush_denormal", lambda mode: True)
        yield


def pytest_configure(config: pytest.Config) -> None:
    # Parallel workers that each take every core spend their time waiting for one another.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    allowed = int(os.environ.get("OMP_NUM_THREADS", _usable_cores()))
    torch.set_num_threads(max(1, min(allowed, _usable_cores() // workers)))
    # torch's default lets a GPU's convolutions, and those of ours, round float32 to 11 bits.
    torch.backends.cudnn.allow_tf32 = False


def _usable_cores() -> int:
    # A container or a batch scheduler may allow fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))

    return os.cpu_count() or 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for tier in TIERS:
            reason = missing_for(tier)
            if reason is not None and item.get_closest_marker(tier) is not None:
                item.add_marker(pytest.mark.skip(reason=f"{tier} tier: {reason}"))


def pytest_report_header() -> list[str]:
    from dgm_fast._core import extension

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [
        f"torch: {torch.__version__}, threads: {torch.get_num_threads()}",
        f"extension: {extension.cpp_missing or extension.build_info()}",
        f"gpu: {', '.join(gpus) or 'none'}",
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran: Counter[str] = Counter()
    skipped: Counter[str] = Counter()

    for outcome, counter in (("passed", ran), ("failed", ran), ("skipped", skipped)):
        for report in terminalreporter.stats.get(outcome, []):
            # A file skipped whole is reported without keywords.
            counter[tier_of(getattr(report, "keywords", ()))] += 1

    terminalreporter.section("tiers")
    for tier in TIERS:
        terminalreporter.line(f"{tier:10}{_account(tier, ran[tier], skipped[tier])}")


def _account(tier: str, ran: int, skipped: int) -> str:
    reason = missing_for(tier)

    if ran == 0:
        return f"did not run: {reason or 'no test of it was selected'}"

    return f"{ran} ran" + (f", {skipped} skipped (reasons below)" if skipped else "")
