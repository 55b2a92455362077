"""What the contract compares: outputs, gradients and second derivatives, within their budgets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgm_fast._core.cases import Inputs, OpCase, OpCases
from tests.contract.budget import Budget, budget
from tests.contract.inputs import absolute, in_float64, outputs
from tests.contract.subjects import Subject

Noise = Callable[..., tuple[Tensor, ...]]
Measure = Callable[..., tuple[Tensor | None, ...]]


def noise(tensors: tuple[Tensor, ...], seed: int = 1) -> tuple[Tensor, ...]:
    """Draw gradients of outputs, multiples of 1/8 and so the same number in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        (torch.randint(-16, 17, each.shape, generator=generator) / 8).to(each) for each in tensors
    )


def absolute_noise(tensors: tuple[Tensor, ...], seed: int = 1) -> tuple[Tensor, ...]:
    """Return the absolute values of `noise`."""
    return tuple(each.abs() for each in noise(tensors, seed))


def forward(result, inputs: Inputs, case: OpCase, noise: Noise = noise):
    """Return the outputs."""
    return outputs(result)


def backward(result, inputs: Inputs, case: OpCase, noise: Noise = noise):
    """Return the gradients; None where an op gives none, for the caller to refuse."""
    result = outputs(result)
    return torch.autograd.grad(result, case.leaves(inputs), noise(result), allow_unused=True)


def second_derivatives(result, inputs: Inputs, case: OpCase, noise: Noise = noise):
    """Return the gradients of the gradients' sum, each element weighted by noise."""
    result = outputs(result)
    leaves = case.leaves(inputs)
    wrt = (*leaves, *(each.requires_grad_() for each in noise(result)))

    first = torch.autograd.grad(result, leaves, wrt[len(leaves) :], create_graph=True)
    weights = noise(first, seed=2)
    # An op that is linear in an argument has no second derivative there.
    return torch.autograd.grad(first, wrt, weights, allow_unused=True, materialize_grads=True)


def budgets(
    subject: Subject, case: OpCase, inputs: Inputs, measure: Measure, terms: int
) -> list[Budget]:
    """Return the budget of each tensor that `measure` gives for these inputs."""
    reference = subject.cases.reference
    magnitude = subject.cases.magnitude or reference

    exact, positive = in_float64(inputs), absolute(inputs)
    expected = measure(reference(**exact), exact, case)
    magnitudes = measure(magnitude(**positive), positive, case, absolute_noise)
    plain = measure(reference(**inputs), inputs, case)

    return [
        budget(exactly, None if subject.is_reference else plainly, absolutely, terms, plainly.dtype)
        for exactly, plainly, absolutely in zip(expected, plain, magnitudes, strict=True)
    ]


def reached_outputs(
    cases: OpCases, inputs: Inputs, name: str, poisoned: Tensor, index: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Mark the outputs that must not be finite when `poisoned`, at `index`, is argument `name`."""
    if cases.reached is not None:
        return outputs(cases.reached(inputs, name, index))

    return tuple(
        ~each.isfinite() for each in outputs(cases.reference(**{**inputs, name: poisoned}))
    )


def assert_within_budget(
    got: tuple[Tensor, ...],
    subject: Subject,
    case: OpCase,
    inputs: Inputs,
    measure: Measure,
    terms: int,
) -> None:
    """Fail where an element of a result is further from float64 than its budget."""
    limits = budgets(subject, case, inputs, measure, terms)

    for place, (each, limit) in enumerate(zip(got, limits, strict=True)):
        assert each.shape == limit.expected.shape, f"{measure.__name__}, tensor {place}"
        worst = limit.worst(each)
        assert worst <= 1, f"{measure.__name__}, tensor {place}: {worst:.3g} times its budget"
