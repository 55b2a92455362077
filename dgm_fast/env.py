"""What is live on this machine, and why the rest is not: `python -m dgm_fast.env`."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import dgm_fast.ops  # noqa: F401 (defines the ops to report)
from dgm_fast import __version__
from dgm_fast._core import extension
from dgm_fast._core.implementation import requested
from dgm_fast._core.op import Op, all_ops

# What decides which CPU kernel runs, out of the dozens of features a CPU reports.
CPU_FEATURES = (
    "avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_tile",
    "neon", "sve", "sve2", "bf16",
)  # fmt: skip


def collect() -> dict[str, Any]:
    """Collect versions, hardware, the extension's build and the live implementations.

    Returns:
        A JSON-serializable dict: `versions`, `cpu`, `gpus`, `extension` and `ops`. In
        `ops[op][device]`, `live` names the implementation that `impl="auto"` takes for large
        float32 inputs, DGM_FAST_IMPL among its reasons; it is None where DGM_FAST_IMPL names one
        that cannot run. `others` maps every other one to the reason why it is not live.
    """
    return {
        "versions": _versions(),
        "cpu": _cpu(),
        "gpus": _gpus(),
        "extension": {
            "cpp_missing": extension.cpp_missing,
            "cuda_missing": extension.cuda_missing,
            "build": extension.build_info(),
        },
        "ops": {
            name: {device.type: _implementations(op, device) for device in _devices()}
            for name, op in sorted(all_ops().items())
        },
    }


def _devices() -> list[torch.device]:
    names = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    return [torch.device(name) for name in names]


def _versions() -> dict[str, str | None]:
    return {
        "dgm_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _installed("triton"),
        "numpy": _installed("numpy"),
        "torch_cuda": torch.version.cuda,
        "compiler": _first_line(os.environ.get("CXX") or "c++"),
        "nvcc": _first_line("nvcc", line=-1),
    }


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(program: str, line: int = 0) -> str | None:
    path = shutil.which(program)
    if path is None:
        return None

    answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    lines = answer.stdout.strip().splitlines()
    return lines[line] if lines else None


def _cpu() -> dict[str, Any]:
    # torch 2.11 cannot list a CPU's features; its own choice of kernels is always known.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()

    return {
        "name": _cpu_name(),
        "cores": _usable_cores(),
        "threads": torch.get_num_threads(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "features": [name for name in CPU_FEATURES if capabilities.get(name)],
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]

    return models[0] if models else platform.processor() or platform.machine()


def _usable_cores() -> int:
    # A container or a batch scheduler may allow fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))

    return os.cpu_count() or 1


def _gpus() -> list[dict[str, Any]]:
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))

    return [
        {
            "name": gpu.name,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "memory_mib": gpu.total_memory // 2**20,
            "multiprocessors": gpu.multi_processor_count,
        }
        for gpu in found
    ]


def _implementations(op: Op, device: torch.device) -> dict[str, Any]:
    reasons: dict[str, str | None] = {"reference": None}
    for name, implementation in op.implementations.items():
        reasons[name] = implementation.unavailable_reason(device)

    wanted = requested("auto")
    live: str | None = op.automatic(device) if wanted == "auto" else wanted
    taken = f"impl='auto' takes {live}" if wanted == "auto" else f"DGM_FAST_IMPL={wanted} is set"
    if live not in reasons or reasons[live] is not None:
        live = None

    others = {n: why or f"available; {taken}" for n, why in reasons.items() if n != live}
    return {"live": live, "others": others}


def _print(report: dict[str, Any]) -> None:
    # Imported here so that collecting needs nothing beyond torch.
    from rich.console import Console
    from rich.table import Table

    # A reason may hold brackets, which markup would swallow.
    console = Console(markup=False, highlight=False)
    facts = Table("part", "here", title="This machine")
    for name, text in _facts(report):
        facts.add_row(name, text)
    console.print(facts)

    ops = Table("op", "device", "live", "the others, and why not", title="Implementations")
    notes: dict[str, int] = {}
    for op, devices in report["ops"].items():
        for device, choice in devices.items():
            others = [
                f"{name} ({notes.setdefault(reason, len(notes) + 1)})"
                for name, reason in choice["others"].items()
            ]
            ops.add_row(op, device, choice["live"] or "none: calls fail", ", ".join(others))
    console.print(ops)

    for reason, number in notes.items():
        console.print(f"({number}) {reason}")


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    versions, cpu, built = report["versions"], report["cpu"], report["extension"]
    features = ", ".join(cpu["features"]) or cpu["torch_capability"]

    facts = [(name, version or "not found") for name, version in versions.items()]
    facts.append(("CPU", f"{cpu['name']}, {cpu['cores']} cores: {features}"))
    facts += [
        (
            "GPU",
            f"{gpu['name']}, sm_{gpu['compute_capability'].replace('.', '')}, "
            f"{gpu['memory_mib']} MiB",
        )
        for gpu in report["gpus"]
    ] or [("GPU", "none is visible")]
    facts.append(("C++ extension", built["cpp_missing"] or _pairs(built["build"])))
    facts.append(("CUDA extension", built["cuda_missing"] or "loaded"))

    return facts


def _pairs(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def main() -> None:
    """Print the report, as a table or, with `--json`, for a program to read."""
    parser = argparse.ArgumentParser(prog="python -m dgm_fast.env", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()

    report = collect()
    if arguments.json:
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        _print(report)


if __name__ == "__main__":
    main()
