"""What tests of samplers share."""

from __future__ import annotations

import pytest

from dgm_fast import use_impl


@pytest.fixture(params=["reference", "auto"])
def sequence_impl(request):
    """What the samplers of a test run: of those that have a kernel, `auto` is that."""
    with use_impl(request.param):
        yield request.param
