"""Keep the ops that these tests define out of the library's list of ops."""

from __future__ import annotations

import pytest

from dgm_fast._core import op


@pytest.fixture(autouse=True)
def _own_list_of_ops(monkeypatch):
    op.all_ops()
    monkeypatch.setattr(op, "_ops", dict(op._ops))
