"""What TF32 follows, and what a compiled graph makes of it."""

from __future__ import annotations

import pytest
import torch

from dgm_fast._core.precision import convolutions_in_tf32, products_in_tf32

SETTINGS = {
    products_in_tf32: torch.backends.cuda.matmul,
    convolutions_in_tf32: torch.backends.cudnn.conv,
}


@pytest.fixture(params=SETTINGS, ids=lambda asks: asks.__name__)
def asks(request):
    """A question, whose setting is put back."""
    setting = SETTINGS[request.param]
    before = setting.fp32_precision
    yield request.param
    setting.fp32_precision = before


@pytest.mark.parametrize("hip", [None, "6.4"])
def test_float32_follows_torchs_setting(monkeypatch, asks, hip):
    monkeypatch.setattr(torch.version, "hip", hip)

    SETTINGS[asks].fp32_precision = "tf32"
    assert asks() is (hip is None)
    SETTINGS[asks].fp32_precision = "ieee"
    assert not asks()


def test_a_compiled_graph_asks_once(asks):
    SETTINGS[asks].fp32_precision = "tf32"

    @torch.compile(fullgraph=True, backend="eager")
    def shifted(x):
        return x + 1 if asks() else x

    assert shifted(torch.zeros(1)) == (torch.version.hip is None)
