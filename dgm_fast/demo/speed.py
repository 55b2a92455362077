"""The speed of this machine: the fast path beside three ways of plain PyTorch.

A short look, not a benchmark: interleaved medians of a few seconds. The folder `benchmarks` of the
source measures with fresh inputs, floors, spread and outside libraries.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dgm_fast.families import MADE, MADEConfig
from dgm_fast.ops import MaskStructure, masked_linear
from dgm_fast.training.compiler import compiler_missing

__all__ = ["PremaskedMADE", "interleaved_medians_ms", "print_speed"]

EAGER, PREMASKED, COMPILED, OURS = "eager", "masked once", "compiled", "dgm_fast"
COLUMNS = (EAGER, PREMASKED, COMPILED, OURS)
SIZES = ((256, 784, 2048), (128, 4096, 4096))
HIDDEN, BATCH = (2048, 2048), 100

Call = Callable[[], object]


def print_speed(console: Console, seconds: float = 3.0) -> None:
    """Time every case for about `seconds` and print the table."""
    missing = compiler_missing(torch.device("cpu"))
    threads = torch.get_num_threads()
    table = Table("what", "pass", title=f"Milliseconds on the CPU, {threads} threads, float32")
    for column in (*COLUMNS, "speed-up"):
        table.add_column(column, justify="right", no_wrap=True)

    with console.status("timing the fast path against plain PyTorch"):
        for (what, direction), make_calls in _cases().items():
            calls = make_calls(missing is None)
            medians = interleaved_medians_ms(calls, seconds)
            cells = [f"{medians[c]:.2f}" if c in medians else "-" for c in COLUMNS]
            table.add_row(what, direction, *cells, f"{medians[EAGER] / medians[OURS]:.2f}x")
    console.print(table)
    console.print(
        "eager: F.linear(x, weight * mask). masked once: the weight masked beforehand, in a "
        "training step again after each update. compiled: torch.compile of eager. dgm_fast: "
        "impl='auto'; the speed-up is its own, against eager."
    )
    if missing is not None:
        console.print(f"torch.compile was left out: {missing}.", style="yellow")


def interleaved_medians_ms(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Time all calls in turn for about `seconds`, at least five rounds, after two to warm up."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    start = None
    for round_ in range(1000):
        start = time.perf_counter() if round_ == 2 else start
        if round_ >= 7 and time.perf_counter() - start > seconds:
            break
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            samples[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(times[2:]) for name, times in samples.items()}


def _cases() -> dict[tuple[str, str], Callable[[bool], dict[str, Call]]]:
    cases: dict[tuple[str, str], Callable[[bool], dict[str, Call]]] = {}
    for batch, features, hidden in SIZES:
        op = _MaskedLinearCalls(batch, features, hidden)
        cases[f"{batch} x {features} -> {hidden}", "fwd"] = op.forward
        cases[f"{batch} x {features} -> {hidden}", "fwd+bwd"] = op.forward_backward
    widths = " ".join(map(str, HIDDEN))
    cases[f"MADE, hidden {widths}", "step"] = _training_step_calls
    return cases


class _MaskedLinearCalls:
    """The calls of one size; tensors are made when first asked for, to time one case at a time."""

    def __init__(self, batch: int, features: int, hidden: int) -> None:
        self.shape = batch, features, hidden

    def forward(self, compiler: bool) -> dict[str, Call]:
        functions, x, weight, bias = self._functions(compiler)

        def run(function: Callable[..., Tensor]) -> None:
            with torch.no_grad():
                function(x, weight, bias)

        return {name: (lambda f=function: run(f)) for name, function in functions.items()}

    def forward_backward(self, compiler: bool) -> dict[str, Call]:
        functions, *inputs = self._functions(compiler)
        inputs = [tensor.requires_grad_() for tensor in inputs]
        upstream = torch.randn(self.shape[0], self.shape[2])

        def run(function: Callable[..., Tensor]) -> None:
            torch.autograd.grad(function(*inputs), inputs, upstream)

        return {name: (lambda f=function: run(f)) for name, function in functions.items()}

    def _functions(self, compiler: bool) -> tuple[dict[str, Callable], Tensor, Tensor, Tensor]:
        batch, features, hidden = self.shape
        # A hidden layer of MADE: degrees in order, a staircase that keeps half of the weights.
        degrees = torch.linspace(0, 1000, features).long(), torch.linspace(0, 1000, hidden).long()
        mask = MaskStructure.from_degrees(*degrees)
        dense = mask.mask.float()

        def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return F.linear(x, weight * dense, bias)

        functions = {
            EAGER: eager,
            PREMASKED: F.linear,
            OURS: lambda x, weight, bias: masked_linear(x, weight, bias, mask),
        }
        if compiler:
            functions[COMPILED] = torch.compile(eager, dynamic=False)
        weight = torch.randn(hidden, features) / features**0.5
        return functions, torch.randn(batch, features), weight, torch.randn(hidden)


def _training_step_calls(compiler: bool) -> dict[str, Call]:
    x = torch.randint(0, 2, (BATCH, 784)).float()
    config = MADEConfig(features=784, hidden=HIDDEN)
    reference = MADE(config, impl="reference")
    calls = {
        EAGER: _step(reference, reference.loss, x),
        PREMASKED: _premasked_step(MADE(config, impl="reference"), x),
        OURS: _step(ours := MADE(config), ours.loss, x),
    }
    if compiler:
        compiled = MADE(config, impl="reference")
        calls[COMPILED] = _step(compiled, torch.compile(compiled.loss, dynamic=False), x)
    return calls


def _step(model: nn.Module, loss: Callable[[Tensor], Tensor], x: Tensor) -> Call:
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(x).backward()
        optimizer.step()

    return step


def _premasked_step(model: MADE, x: Tensor) -> Call:
    premasked = PremaskedMADE(model)
    step = _step(premasked, premasked.loss, x)

    def step_and_mask() -> None:
        step()
        premasked.mask_weights()

    return step_and_mask


class PremaskedMADE(nn.Module):
    """The plain network that equals a MADE while its weights are masked, and trains like it.

    Arguments:
        model: with Bernoulli outputs, ReLU, one set of masks and nothing but hidden layers.
    """

    def __init__(self, model: MADE) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self._masks: list[tuple[Tensor, Tensor]] = []
        for layer in model.layers:
            device = layer.weight.device
            plain = nn.Linear(layer.in_features, layer.out_features, device=device)
            plain.load_state_dict(layer.state_dict())
            self._masks.append((plain.weight, layer.mask.mask.float()))
            layers += [plain, nn.ReLU()]

        self.network = nn.Sequential(*layers[:-1])
        self.mask_weights()

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of `x` in nats."""
        return F.binary_cross_entropy_with_logits(self.network(x), x, reduction="sum") / len(x)

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Mask the weights again; to be called after each update."""
        for weight, mask in self._masks:
            weight.mul_(mask)
