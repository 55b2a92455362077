"""Whether torch.compile can work here."""

from __future__ import annotations

import os
import shutil

import torch

__all__ = ["compiler_missing"]


def compiler_missing(device: torch.device) -> str | None:
    """Say what torch.compile lacks on `device`, or None when it has all it needs."""
    command = os.environ.get("CXX", "g++").split()[0]
    if device.type == "cpu" and shutil.which(command) is None:
        return f"no C++ compiler ({command}): install g++ or name one in CXX"
    return None
