"""Defining an op: its torch operators, their shapes and their launchers."""

from __future__ import annotations

import importlib.util
import itertools
import sys

import pytest
import torch

from dgm_fast._core.implementation import Implementation
from dgm_fast._core.op import Direction, Op, all_ops

_names = itertools.count()


def double(launchers=None, *, name=None):
    """Define the op that doubles; each needs a name of its own, for torch never forgets one."""
    name = name or f"double_{next(_names)}"
    direction = Direction("(Tensor x) -> Tensor", torch.empty_like)
    return Op(
        name,
        {"forward": direction},
        [Implementation("triton", ("cpu",), (torch.float32,), None, launchers)],
    )


@pytest.fixture
def launchers(tmp_path, monkeypatch):
    """Write a module of launchers that no import has seen yet."""
    name = f"launchers_{next(_names)}"
    (tmp_path / f"{name}.py").write_text("def forward(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_every_direction_and_implementation_is_one_torch_operator():
    for name, op in all_ops().items():
        assert set(op.kernels) == set(itertools.product(op.directions, op.implementations))
        for (direction, implementation), kernel in op.kernels.items():
            assert kernel.name() == f"dgm_fast::{name}_{direction}_{implementation}"


def test_a_launcher_is_imported_at_its_first_launch(launchers):
    kernel = double(launchers).kernels["forward", "triton"]

    assert launchers not in sys.modules
    assert kernel(torch.ones(3)).tolist() == [2, 2, 2]
    assert launchers in sys.modules


def test_an_operator_knows_its_shapes_without_its_launcher():
    kernel = double("no_such_module").kernels["forward", "triton"]

    assert kernel(torch.ones(3, 4, device="meta")).shape == (3, 4)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        kernel(torch.ones(3, 4))


def test_defining_an_op_twice_is_an_error():
    op = double()

    with pytest.raises(RuntimeError, match=op.name):
        double(name=op.name)


def test_the_launchers_of_triton_exist_where_triton_does():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed: its kernels cannot be imported")

    for op in all_ops().values():
        for implementation in op.implementations.values():
            if implementation.launchers is not None:
                module = importlib.import_module(implementation.launchers)
                assert all(callable(getattr(module, name)) for name in op.directions)
