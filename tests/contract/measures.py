"""What the contract compares: outputs, gradients and second derivatives, within their budgets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgm_fast._core.cases import Inputs, OpCase
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


def that_require_grad(
    result: tuple[Tensor, ...], grads: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the outputs that depend on a leaf, and their gradients; noise, say, does not."""
    pairs = ((each, grad) for each, grad in zip(result, grads, strict=True) if each.requires_grad)
    return tuple(zip(*pairs, strict=True))


def forward(result, inputs: Inputs, case: OpCase, noise: Noise = noise):
    """Return the outputs."""
    return outputs(result)


def backward(result, inputs: Inputs, case: OpCase, noise: Noise = noise):
    """Return the gradients; None where an op gives none, for the caller to refuse."""
    result = outputs(result)
    result, grads = that_require_grad(result, noise(result))
    return torch.autograd.grad(result, case.leaves(inputs), grads, allow_unused=True)


def second_derivatives(result, inputs: Inputs, case: OpCase, noise: Noise = noise):
    """Return the gradients of the gradients' sum, each element weighted by noise."""
    result = outputs(result)
    leaves = case.leaves(inputs)
    wrt = (*leaves, *(each.requires_grad_() for each in noise(result)))

    result, grads = that_require_grad(result, wrt[len(leaves) :])
    first = torch.autograd.grad(result, leaves, grads, create_graph=True)
    weights = noise(first, seed=2)
    # An op that is linear in an argument has no second derivative there.
    return torch.autograd.grad(first, wrt, weights, allow_unused=True, materialize_grads=True)


def budgets(
    subject: Subject, case: OpCase, inputs: Inputs, measure: Measure, terms: int
) -> list[Budget]:
    """Return the budget of each tensor that `measure` gives for these inputs."""
    reference = subject.cases.reference
    magnitude = subject.cases.magnitude or reference

    exact = in_float64(inputs)
    positive = in_float64(inputs) if subject.cases.signed_magnitude else absolute(inputs)
    expected = measure(reference(**exact), exact, case)
    magnitudes = measure(magnitude(**positive), positive, case, absolute_noise)
    plain = measure(reference(**inputs), inputs, case)

    return [
        budget(exactly, None if subject.is_reference else plainly, absolutely, terms, plainly.dtype)
        for exactly, plainly, absolutely in zip(expected, plain, magnitudes, strict=True)
    ]


def poisoned_budgets(
    subject: Subject,
    case: OpCase,
    inputs: Inputs,
    clean: list[Budget],
    name: str,
    value: Tensor,
    index: tuple[int, ...],
) -> list[tuple[Budget, Tensor]]:
    """Return, for argument `name` = `value`, not finite at `index`, each output's budget.

    Beside it the outputs that must not be finite; of the others the budget tells what they may be.
    `clean` are the budgets without that value.
    """
    terms, _ = subject.cases.terms(inputs)
    poisoned = budgets(subject, case, {**inputs, name: value}, forward, terms)
    reached = [torch.ones_like(each.expected, dtype=torch.bool) for each in clean]
    if subject.cases.reached is not None:
        reached = outputs(subject.cases.reached(inputs, name, index))

    # Where the op says that the poison has no part, the reference's zeros may have let it in.
    return [
        (_finite_part(with_poison, without, value.dtype), ~with_poison.expected.isfinite() & there)
        for with_poison, without, there in zip(poisoned, clean, reached, strict=True)
    ]


def _finite_part(poisoned: Budget, clean: Budget, dtype: torch.dtype) -> Budget:
    """Return the budget under poison, with a clean one's numbers where it has none."""
    expected = torch.where(poisoned.expected.isfinite(), poisoned.expected, clean.expected)
    # What poison leaves finite, a gate wide open say, may be larger, and is stored as coarsely.
    stored = torch.finfo(dtype).eps / 2 * expected.abs()
    allowed = torch.where(poisoned.allowed.isfinite(), poisoned.allowed, clean.allowed + stored)
    return Budget(expected, allowed, poisoned.overflows)


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
