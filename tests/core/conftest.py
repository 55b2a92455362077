"""Keep the ops that these tests define out of the library's list of ops."""

from __future__ import annotations

import pytest

import dgm_fast.ops  # noqa: F401 (defines the library's ops)
from dgm_fast._core import op


@pytest.fixture(autouse=True)
def _own_list_of_ops(monkeypatch):
    monkeypatch.setattr(op, "_ops", dict(op._ops))
