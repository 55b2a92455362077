"""One contract that every op keeps, on every implementation, for every case it declares."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import CrossRefFakeMode
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.contract import subjects
from tests.contract.inputs import in_float64, make, moved, outputs, poisoned_memory, snapshot
from tests.contract.measures import (
    assert_within_budget,
    backward,
    budgets,
    forward,
    noise,
    poisoned_budgets,
    second_derivatives,
    that_require_grad,
)
from tests.contract.subjects import (
    CASES,
    OPS,
    each_bad_input,
    each_case,
    each_oracle_case,
    each_subject,
    find_case,
)


def test_every_op_declares_its_cases():
    assert set(OPS) <= set(CASES)


def test_an_op_without_kernels_is_its_reference(monkeypatch):
    monkeypatch.setattr(subjects, "OPS", {})

    found = {(each.op, each.implementation.name) for each in subjects.subjects(reference=True)}
    assert found == {(name, "reference") for name in CASES}


@each_case(dtypes=True)
def test_outputs_and_gradients_are_as_exact_as_float32_allows(subject, case, dtype):
    inputs = make(case, subject.device, dtype)
    before = snapshot(inputs)

    with poisoned_memory():
        result = subject.run(inputs)
        gradients = backward(result, inputs, case) if case.differentiable else ()

    after = snapshot(inputs)
    assert all(torch.equal(before[name], after[name]) for name in before), "inputs were changed"
    of_output, of_gradient = subject.cases.terms(inputs)
    assert_within_budget(outputs(result), subject, case, inputs, forward, of_output)
    if not case.differentiable:
        return

    for name, leaf, grad in zip(case.differentiable, case.leaves(inputs), gradients, strict=True):
        assert grad is not None, f"{name} has no gradient"
        assert (grad.shape, grad.dtype) == (leaf.shape, leaf.dtype), name

    assert_within_budget(gradients, subject, case, inputs, backward, of_gradient)
    if dtype is subject.dtype and not subject.is_reference:
        together = dict(zip(case.differentiable, gradients, strict=True))
        for name in subject.in_turn(case, case.differentiable):
            _assert_the_same_alone(subject, case, inputs, name, outputs(result), together[name])


def _assert_the_same_alone(subject, case, inputs, name, first, together):
    """Fail where a gradient asked for alone has other bits than beside the others, or outputs."""
    for leaf in case.leaves(inputs):
        leaf.requires_grad_(leaf is inputs[name])

    # As before, where torch took its deterministic algorithms.
    with poisoned_memory():
        result = outputs(subject.run(inputs))
        found, grads = that_require_grad(result, noise(result))
        (alone,) = torch.autograd.grad(found, inputs[name], grads)

    assert all(map(torch.equal, result, first)), f"outputs, with {name} alone"
    assert torch.equal(alone, together), f"{name} alone"


@each_case(differentiable=True, reference=False, interpreted="first")
def test_second_derivatives_match_float64(subject, case):
    # They are the reference's on every implementation, so that one case shows it where it is slow.
    inputs = make(case, subject.device, subject.dtype)
    got = second_derivatives(subject.run(inputs), inputs, case)

    terms = sum(subject.cases.terms(inputs))
    assert_within_budget(got, subject, case, inputs, second_derivatives, terms)


@each_oracle_case()
def test_reference_passes_gradcheck_and_gradgradcheck(cases, case):
    inputs = in_float64(make(case, torch.device("cpu"), torch.float64))
    leaves = case.leaves(inputs)

    if any(leaf.numel() > 0 and leaf.abs().max() > 100 for leaf in leaves):
        pytest.skip("finite differences with steps of 1e-6 need inputs of order one")

    def function(*values):
        return cases.function(**inputs | dict(zip(case.differentiable, values, strict=True)))

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@each_case(reference=False, interpreted="first")
def test_bits_are_the_same_again_and_on_any_number_of_threads(subject, case):
    inputs = make(case, subject.device, subject.dtype)

    def run():
        result = outputs(subject.run(inputs))
        return (*result, *(backward(result, inputs, case) if case.differentiable else ()))

    first = run()
    threads = torch.get_num_threads()
    for count in (threads,) if subject.is_interpreted else (threads, 1, 2, 3):
        torch.set_num_threads(count)
        try:
            again = run()
        finally:
            torch.set_num_threads(threads)

        assert all(map(torch.equal, first, again)), f"{count} threads"


@each_case(differentiable=True, reference=False)
def test_nan_and_infinity_never_come_out_as_a_wrong_number(subject, case):
    clean = make(case, subject.device, subject.dtype)
    terms, _ = subject.cases.terms(clean)
    limits = budgets(subject, case, clean, forward, terms)
    poisons = subject.in_turn(case, (torch.nan, torch.inf, -torch.inf))

    for name, poison in itertools.product(case.differentiable, poisons):
        if clean[name].numel() == 0:
            continue

        index = tuple(size // 2 for size in clean[name].shape)
        value = clean[name].detach().clone()
        value[index] = poison
        got = outputs(subject.run({**clean, name: value}))
        poisoned = poisoned_budgets(subject, case, clean, limits, name, value, index)

        for each, (limit, must) in zip(got, poisoned, strict=True):
            assert not each[must].isfinite().any(), f"{name}: {poison} was lost"
            kept = torch.where(each.isfinite(), each, limit.expected.to(each))
            assert limit.worst(kept) <= 1, f"{name}: a wrong number, with {poison}"


def test_without_a_word_from_the_op_its_reference_says_where_a_nan_must_come_out(monkeypatch):
    cases = CASES["masked_linear"]
    subject = subjects.Subject("masked_linear", subjects.REFERENCE, "cpu")
    case = find_case(cases, "full-mask")
    inputs = make(case, subject.device, subject.dtype)
    index = (2, 3)
    value = inputs["x"].detach().clone()
    value[index] = torch.nan

    terms, _ = cases.terms(inputs)
    arguments = (case, inputs, budgets(subject, case, inputs, forward, terms), "x", value, index)
    ((_, declared),) = poisoned_budgets(subject, *arguments)
    monkeypatch.setitem(CASES, "masked_linear", replace(cases, reached=None))
    ((limit, found),) = poisoned_budgets(subject, *arguments)
    assert torch.equal(found, declared)
    assert found.sum() == found.shape[-1]
    assert limit.expected.isfinite().all()
    assert limit.allowed.isfinite().all()


@each_bad_input()
def test_bad_input_is_refused_by_name(cases, bad):
    with pytest.raises(bad.error) as caught:
        cases.function(**bad.make(torch.device("cpu")))

    assert str(caught.value).startswith(f"{bad.names} must ")
    assert bad.shows in str(caught.value)


@each_subject(reference=False)
def test_a_kernel_refuses_a_dtype_it_lacks(subject):
    inputs = in_float64(make(subject.cases.cases[0], subject.device, torch.float32))

    with pytest.raises(RuntimeError, match=r"no torch\.float64 kernel"):
        subject.run(inputs)


class _KernelCalls(TorchDispatchMode):
    """Check and keep the calls that reach the library's own torch operators.

    What an operator changes, aliases and returns is compared with its schema and its fake, as
    opcheck does it, but on the call itself: of an interpreted kernel each further one is dear.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace != "dgm_fast":
            return func(*args, **kwargs)

        self.calls.append((func, args, kwargs))
        with SchemaCheckMode(), CrossRefFakeMode():
            return func(*args, **kwargs)


@each_case(reference=False)
def test_every_operator_called_keeps_to_its_schema_and_its_fake(subject, case):
    inputs = make(case, subject.device, subject.dtype)

    with _KernelCalls() as kernels:
        result = subject.run(inputs)
        if case.differentiable:
            backward(result, inputs, case)

    assert len(kernels.calls) == (2 if case.differentiable else 1)
    # Tracing takes the longest. It sees what all implementations of an op share, and of a case
    # which arguments there are: how they lie in memory is compared above, of every call.
    cases = subject.contract_cases
    if case not in (_one_of_each_form(cases) if _is_first_here(subject) else cases[:1]):
        return

    # Gradients are the business of the autograd.Function around the operators: a forward makes no
    # graph of its own, and a backward runs where none is made.
    func, args, kwargs = kernels.calls[0]
    leaves = tree_map_only(torch.Tensor, _as_leaf, args)
    torch.library.opcheck(func, leaves, kwargs, test_utils="test_autograd_registration")
    for func, args, kwargs in kernels.calls:
        args = tree_map_only(torch.Tensor, torch.Tensor.detach, args)
        torch.library.opcheck(func, args, kwargs, test_utils="test_aot_dispatch_dynamic")


@cache
def _one_of_each_form(cases):
    """Return the first case of each set of arguments given, dims, options and leaves."""
    firsts = {}
    for case in cases:
        inputs = make(case, torch.device("cpu"), torch.float32)
        form = (case.differentiable, *(_form(*each) for each in inputs.items()))
        firsts.setdefault(form, case)

    return tuple(firsts.values())


def _form(name, value):
    if isinstance(value, torch.Tensor):
        return name, value.ndim

    is_option = value is None or isinstance(value, bool | str)
    return name, value if is_option else type(value)


def _as_leaf(tensor):
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def _is_first_here(subject):
    """Return whether no other implementation of the op that runs here comes before it."""
    live = (
        each
        for each in OPS[subject.op].implementations.values()
        if each.unavailable_reason(torch.device("cpu")) is None
    )
    return subject.implementation == next(live, None)


@each_subject()
def test_compiles_to_one_graph_for_every_batch_size(subject):
    case = subject.cases.cases[0]
    if not subject.is_interpreted:
        case = _largest_case(subject, batch=12)

    inputs = make(case, subject.device, subject.dtype)
    subject.run(inputs)

    torch._dynamo.reset()
    backend = CompileCounterWithBackend("aot_eager")
    function = partial(subject.cases.function, impl=subject.implementation.name)
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)

    counts = []
    for batch in _uncommon_sizes(inputs):
        smaller = subject.cases.with_batch(inputs, batch)
        eager, traced = outputs(function(**smaller)), outputs(compiled(**smaller))
        torch.testing.assert_close(traced, eager)
        counts.append(backend.frame_count)

        if case.differentiable:
            torch.testing.assert_close(
                backward(traced, inputs, case), backward(eager, inputs, case)
            )

    # The first size may take two: dynamo starts over to make a float argument a constant.
    assert len(set(counts)) == 1, "the batch size is compiled into the graph"


@each_subject(differentiable=True)
def test_autocast_computes_in_bfloat16_and_keeps_gradients_in_float32(subject):
    case = subject.cases.cases[0]
    inputs = make(case, subject.device, torch.float32)

    with torch.autocast(subject.device_type, torch.bfloat16):
        got = outputs(subject.run(inputs))
        plain = outputs(subject.cases.reference(**inputs))

    assert [each.dtype for each in got] == [each.dtype for each in plain]
    assert all(leaf.dtype is torch.float32 for leaf in backward(got, inputs, case))

    if not subject.is_reference and all(each.dtype is torch.bfloat16 for each in got):
        # Cast like any product's operands, and nothing else.
        by_hand = {name: _as_bfloat16(value) for name, value in inputs.items()}
        assert all(map(torch.equal, got, outputs(subject.run(by_hand))))
        return

    # Casting the inputs is an error both make; the result's own rounding is one ulp of bfloat16, or
    # all of its budget where the op stays in float32.
    terms, _ = subject.cases.terms(inputs)
    for each, plainly, limit in zip(
        got, plain, budgets(subject, case, inputs, forward, terms), strict=True
    ):
        exact = limit.expected
        stored = torch.finfo(each.dtype).eps * exact.abs()
        error, reference_error = (each - exact).abs(), (plainly - exact).abs()
        assert (error <= 2 * reference_error + stored + limit.allowed).all()


def _as_bfloat16(value):
    is_floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.detach().bfloat16() if is_floating else value


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@each_subject(differentiable=True)
def test_vmap_and_per_sample_gradients_match_a_loop(subject):
    case = subject.cases.cases[0]
    inputs = make(case, subject.device, subject.dtype)
    name = case.differentiable[0]
    stacked = torch.stack([inputs[name].detach() * scale for scale in (1.0, -2.0, 0.5)])

    def loss(value):
        result = outputs(subject.run({**inputs, name: value}))
        return sum(each.square().sum() for each in result)

    gradients = torch.func.vmap(torch.func.grad(loss))(stacked)
    looped = torch.stack([torch.func.grad(loss)(each) for each in stacked])
    torch.testing.assert_close(gradients, looped)


class _OneDevice(TorchDispatchMode):
    """Refuse every operator that takes or gives a tensor on another device than this one."""

    def __init__(self, device_type):
        super().__init__()
        self.device_type = device_type

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = (each for each in tree_leaves((args, kwargs, result)) if torch.is_tensor(each))
        assert all(each.device.type == self.device_type for each in tensors), func
        return result


@pytest.mark.parametrize("op", CASES)
def test_a_reference_reads_nothing_and_makes_nothing_on_the_cpu(op, monkeypatch):
    # A GPU would wait for either. The meta device has no values to read, and stands for one; it has
    # no autocast either.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())

    for case in _one_of_each_form(CASES[op].cases):
        inputs = moved(make(case, torch.device("cpu"), torch.float32), torch.device("meta"))
        with _OneDevice("meta"):
            result = outputs(CASES[op].function(**inputs, impl="reference"))
        assert all(each.is_meta for each in result)


@each_subject(device_type="cuda")
def test_no_call_waits_for_the_gpu_and_a_cuda_graph_replays_it(subject):
    case = subject.cases.cases[0]
    inputs = make(case, subject.device, subject.dtype)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    # The inputs are made on another.
    stream.wait_stream(torch.cuda.current_stream())

    with torch.no_grad(), torch.cuda.stream(stream):
        expected = outputs(subject.run(inputs))
        torch.cuda.set_sync_debug_mode("error")
        try:
            subject.run(inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

        with torch.cuda.graph(graph, stream=stream):
            captured = outputs(subject.run(inputs))

    for each in captured:
        each.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, captured, expected))


def _uncommon_sizes(inputs):
    """Return three batch sizes far from every other size: dynamo takes equal ones for one."""
    others = {
        size + step
        for value in inputs.values()
        if isinstance(value, torch.Tensor)
        for size in value.shape[1:]
        for step in (-1, 0, 1)
    }
    found = [size for size in (7, 5, 12, 11, 9, 4, 3, 10, 8, 6) if size not in others][:3]
    assert len(found) == 3, "too few sizes are far from the case's own"
    return found


def _largest_case(subject, batch):
    """Return the case with the most elements of those that can shrink to a batch of that size."""
    results = {
        case: outputs(subject.cases.reference(**make(case, torch.device("cpu"), torch.float32)))
        for case in subject.contract_cases
    }
    can_shrink = [case for case, (first, *_) in results.items() if first.shape[:1] >= (batch,)]
    return max(can_shrink or results, key=lambda case: sum(each.numel() for each in results[case]))
