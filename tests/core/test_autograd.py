"""Making kernels differentiable: gradients of the kernel, second derivatives of its reference."""

from __future__ import annotations

import itertools

import pytest
import torch

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import Implementation
from dgm_fast._core.op import Direction, Op

_names = itertools.count()

LAUNCHERS = """
def forward(x, y):
    return x * y

def backward(grad, x, y, needs):
    return grad * y, grad * x
"""


@pytest.fixture
def product(tmp_path, monkeypatch):
    """Define the op x y; torch never forgets one, so each has a name of its own."""
    number = next(_names)
    (tmp_path / f"products_{number}.py").write_text(LAUNCHERS)
    monkeypatch.syspath_prepend(tmp_path)

    op = Op(
        f"product_{number}",
        {
            "forward": Direction("(Tensor x, Tensor y) -> Tensor", torch.empty_like),
            "backward": Direction(
                "(Tensor? grad, Tensor x, Tensor y, bool[2] needs) -> (Tensor, Tensor)",
                lambda grad, x, y, needs: (torch.empty_like(x), torch.empty_like(y)),
            ),
        },
        [Implementation("triton", ("cpu",), (torch.float32,), None, f"products_{number}")],
    )
    call = differentiable(op, (0, 1), torch.mul)
    return lambda x, y: call("triton", x, y)


def test_gradients_are_the_kernels(product):
    x, y = torch.tensor([2.0, 3.0]).requires_grad_(), torch.tensor([5.0, 7.0]).requires_grad_()
    found = torch.autograd.grad(product(x, y).sum(), (x, y))
    assert [each.tolist() for each in found] == [[5, 7], [2, 3]]


def test_an_argument_computed_from_another_counts_once_in_second_derivatives(product):
    x = torch.tensor([2.0, 3.0]).requires_grad_()
    (first,) = torch.autograd.grad(product(x, x.square()).sum(), x, create_graph=True)
    assert first.tolist() == [12, 27]  # of x^3

    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [12, 18]


def test_the_same_argument_twice_counts_twice(product):
    x = torch.tensor([2.0, 3.0]).requires_grad_()
    (first,) = torch.autograd.grad(product(x, x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert (first.tolist(), second.tolist()) == ([4, 6], [2, 2])
