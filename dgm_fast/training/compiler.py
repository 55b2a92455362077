"""Whether torch.compile can work here."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch

__all__ = ["compiler_missing"]


def compiler_missing(device: torch.device) -> str | None:
    """Say what torch.compile lacks on `device`, or None when it has all it needs."""
    if device.type != "cpu":
        return None

    command = os.environ.get("CXX", "g++").split()[0]
    if shutil.which(command) is None:
        return f"no C++ compiler ({command}): install g++ or name one in CXX"

    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        return f"no Python headers ({header}): install python3-dev"

    return None
