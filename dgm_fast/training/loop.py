"""The training loop: one for every family, on one process or many.

    for epoch:
        for batch:  loss -> gradients -> clip -> AdamW -> average of the weights
        validate, log, keep the best weights, save everything needed to resume

A run is a function of its config, data and initial weights: order and noise of the batches follow
from (seed, epoch, batch), the learning rate from the step, and the random states are saved. So an
interrupted run that is resumed ends with the same bits on a CPU as one that never stopped.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgm_fast.training.checkpoint import (
    TRAINING_FILE,
    load_training,
    rng_state,
    save_best,
    save_training,
    set_rng,
)
from dgm_fast.training.compiler import compiler_missing
from dgm_fast.training.config import TrainConfig, learning_rate_at
from dgm_fast.training.data import Dataset, steps_per_epoch, train_batches
from dgm_fast.training.distributed import Processes, StopRequest, stop_request
from dgm_fast.training.logs import RunLog
from dgm_fast.training.metrics import mean_nll_nats
from dgm_fast.training.protocol import check_fit, context_of, shape_rows, training_step_begin

__all__ = ["TrainResult", "train"]


@dataclass
class Counters:
    """Hold the numbers of a run that change and are saved with it."""

    step: int = 0
    best_nats: float = math.inf
    best_step: int = 0
    stale_epochs: int = 0
    loss_sum: float = 0.0
    cpu_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class TrainResult:
    """Report how a run ended; its best weights lie in `folder`."""

    folder: Path
    steps: int
    best_validation_nats: float
    best_step: int
    interrupted: bool
    seconds: float


@dataclass
class Run:
    """Hold all that one run works on."""

    model: nn.Module
    dataset: Dataset
    config: TrainConfig
    folder: Path
    device: torch.device
    processes: Processes
    console: Console
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        config = self.config
        self.steps_per_epoch = steps_per_epoch(self.dataset, config.batch_size)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.modules = {"model": self.model}
        if config.ema_decay:
            average = get_ema_multi_avg_fn(config.ema_decay)
            self.modules["average"] = AveragedModel(self.model, multi_avg_fn=average)
        self.objective = _make_objective(self.model, config, self.device, self.processes)

    @property
    def epoch(self) -> int:
        """Number of whole epochs done."""
        return self.counters.step // self.steps_per_epoch

    @property
    def finished(self) -> bool:
        """True after the last epoch, or when validation has been stale for `patience` epochs."""
        patience = self.config.patience
        stale = patience > 0 and self.counters.stale_epochs >= patience
        return stale or self.epoch >= self.config.epochs

    @property
    def evaluated(self) -> nn.Module:
        """The model that is validated and saved: the average where there is one."""
        return self.modules["average"].module if "average" in self.modules else self.model


def train(
    model: nn.Module,
    dataset: Dataset,
    config: TrainConfig,
    folder: Path | str,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> TrainResult:
    """Train `model` by maximum likelihood and keep the weights that validate best in `folder`.

    `model` is a :class:`~dgm_fast.training.protocol.DensityModel`; it is moved to the device and
    ends with the weights of the last step, `folder` holds the best ones for `from_pretrained`.
    Under torchrun every process calls this with the same arguments.

    Precision: parameters keep their dtype; `config.bf16` runs the loss under autocast; validation
    never does. Likelihoods are summed in float64.

    Raises:
        ValueError: the model does not fit the data; `folder` holds a run and `resume` is false, or
            the run to resume had other hyperparameters, weights or data.
        FileNotFoundError: there is no run to resume.
        FloatingPointError: the loss is no longer finite; the last good checkpoint stays.
    """
    run = _begin(model, dataset, config, Path(folder), resume, console)
    log = None
    if run.processes.is_first:
        log = RunLog(run.folder, run.counters.step, config.tensorboard, run.console)
    with stop_request() as stop, _progress_bar(run) as bar:
        interrupted = _train_epochs(run, log, stop, bar)
    if log is not None:
        log.close()
    c = run.counters
    if interrupted:
        run.console.print(f"Stopped at step {c.step} and saved; resume goes on from there.")
    return TrainResult(run.folder, c.step, c.best_nats, c.best_step, interrupted, c.seconds)


def _begin(
    model: nn.Module,
    dataset: Dataset,
    config: TrainConfig,
    folder: Path,
    resume: bool,
    console: Console | None,
) -> Run:
    """Make a new run in `folder`, or take up the one that lies there."""
    check_fit(model, dataset)
    processes = Processes.current()
    device = config.resolve_device(int(os.environ.get("LOCAL_RANK", "0")))
    console = console or Console(stderr=True, quiet=not processes.is_first)
    folder.mkdir(parents=True, exist_ok=True)
    if not resume and (folder / TRAINING_FILE).exists():
        raise ValueError(f"{folder} already holds a run: resume it or choose another folder")

    torch.manual_seed(config.seed + processes.rank)
    run = Run(model.to(device), dataset, config, folder, device, processes, console)
    if resume:
        _resume(run)
    return run


def _train_epochs(run: Run, log: RunLog | None, stop: StopRequest, bar: Progress) -> bool:
    """Train until finished or asked to stop; return whether it was asked to."""
    counters = run.counters
    while not run.finished:
        start, cpu_start = time.perf_counter(), time.process_time()
        row = _train_epoch(run, stop, bar)
        counters.seconds += time.perf_counter() - start
        counters.cpu_seconds += time.process_time() - cpu_start
        if row is None:
            _save(run)
            return True

        row |= {"validation_nats": _validate(run)}
        row |= {name: round(getattr(counters, name), 3) for name in ("cpu_seconds", "seconds")}
        bar.update(bar.task_ids[0], nats=f"{row['validation_nats']:.3f}")
        if log is not None:
            log.write(row)
        _save(run)
        # Step 0 is one at which all processes agree.
        if stop.agreed(0, run.processes, run.device) and not run.finished:
            return True
    return False


def _train_epoch(run: Run, stop: StopRequest, bar: Progress) -> dict[str, float] | None:
    """Train to the end of the epoch and return its row of the log, or None when asked to stop."""
    config, counters, processes = run.config, run.counters, run.processes
    epoch, start = divmod(counters.step, run.steps_per_epoch)
    batches = train_batches(
        run.dataset,
        config.batch_size,
        seed=config.seed,
        epoch=epoch,
        start=start,
        rank=processes.rank,
        world_size=processes.world_size,
        device=run.device,
    )
    run.model.train()
    # The sum stays on the device: reading it at every step would stall a GPU.
    loss_sum = torch.tensor(counters.loss_sum, dtype=torch.float64, device=run.device)
    for batch in batches:
        loss_sum += _train_step(run, *batch)
        counters.step += 1
        bar.update(bar.task_ids[0], completed=counters.step)
        # After the last batch the epoch is whole: it is validated before a stop.
        if counters.step % run.steps_per_epoch and stop.agreed(
            counters.step, processes, run.device
        ):
            counters.loss_sum = processes.sum(loss_sum).item() / processes.world_size
            return None

    counters.loss_sum = 0.0
    return _epoch_row(run, processes.sum(loss_sum).item() / processes.world_size)


def _epoch_row(run: Run, loss_sum: float) -> dict[str, float]:
    """Make the log's row of the epoch that has just ended."""
    train_nats = loss_sum / run.steps_per_epoch
    if not math.isfinite(train_nats):
        raise FloatingPointError(
            f"the training loss became {train_nats} in epoch {run.epoch}: "
            f"lower learning_rate ({run.config.learning_rate}) or set gradient_clip"
        )
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    return {
        "epoch": run.epoch,
        "step": run.counters.step,
        "train_nats": train_nats,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "gradient_norm": nn.utils.get_total_norm(gradients).item(),
    }


def _train_step(run: Run, rows: Tensor, labels: Tensor | None) -> Tensor:
    """Do one step and return its loss, detached."""
    config, step = run.config, run.counters.step
    training_step_begin(run.model, step)
    learning_rate = learning_rate_at(step, config.epochs * run.steps_per_epoch, config)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate

    with torch.autocast(run.device.type, torch.bfloat16, enabled=config.bf16):
        loss = run.objective(shape_rows(rows, run.model), context_of(run.model, labels))
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.gradient_clip:
        nn.utils.clip_grad_norm_(run.model.parameters(), config.gradient_clip)
    run.optimizer.step()
    if "average" in run.modules:
        run.modules["average"].update_parameters(run.model)
    return loss.detach()


def _validate(run: Run) -> float:
    """Compute the validation NLL, keep the weights if they are the best so far."""
    counters = run.counters
    validation_nats = mean_nll_nats(
        run.evaluated,
        *run.dataset.split("validation"),
        batch_size=run.config.evaluation_batch_size,
        device=run.device,
        rank=run.processes.rank,
        world_size=run.processes.world_size,
        quick=True,
        seed=run.config.seed,
    )
    counters.stale_epochs += 1
    if validation_nats < counters.best_nats:
        counters.best_nats, counters.best_step = validation_nats, counters.step
        counters.stale_epochs = 0
        if run.processes.is_first:
            save_best(run.folder, run.evaluated)
    return validation_nats


def _save(run: Run) -> None:
    """Save the run; every process takes part, for its random states."""
    rng = rng_state(run.device)
    if run.processes.is_first:
        progress = {"counters": asdict(run.counters), "run": _identity(run)}
        save_training(run.folder, run.modules, run.optimizer, progress, rng)


def _resume(run: Run) -> None:
    progress, rng = load_training(run.folder, run.modules, run.optimizer)
    saved, now = progress["run"], _identity(run)
    changed = {
        key: f"{saved.get(key)!r} -> {now[key]!r}" for key in now if saved.get(key) != now[key]
    }
    if changed:
        raise ValueError(f"cannot resume {run.folder} with other settings: {changed}")
    run.counters = Counters(**progress["counters"])
    set_rng(rng, run.device, run.processes.rank)


def _identity(run: Run) -> dict[str, object]:
    """What must be equal for a resumed run to continue to the same numbers."""
    data = {"data": run.dataset.name, "binarization": run.dataset.binarization}
    processes = {"processes": run.processes.world_size}
    return run.config.numbers() | _hyperparameters(run.model) | data | processes


def _hyperparameters(model: nn.Module) -> dict[str, object]:
    config = getattr(model, "config", None)
    if not is_dataclass(config):
        return {}

    # Through JSON, as a saved run comes back: a tuple becomes a list.
    fields = json.loads(json.dumps(asdict(config)))
    return {f"model.{name}": value for name, value in fields.items()}


class _Loss(nn.Module):
    """Makes `model.loss` a forward, which is what DistributedDataParallel and compile wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.model.loss(x, context)


def _make_objective(
    model: nn.Module, config: TrainConfig, device: torch.device, processes: Processes
) -> nn.Module:
    objective: nn.Module = _Loss(model)
    if processes.world_size > 1:
        # Buffers (masks) follow from the step on every process alike: nothing to broadcast.
        ids = [device] if device.type == "cuda" else None
        objective = DistributedDataParallel(objective, device_ids=ids, broadcast_buffers=False)
    if not config.compile:
        return objective
    missing = compiler_missing(device)
    if missing is not None:
        raise ValueError(f"compile=True cannot work here: {missing}")
    return torch.compile(objective)


def _progress_bar(run: Run) -> Progress:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("validation {task.fields[nats]} nats"),
        TimeRemainingColumn(),
        console=run.console,
        disable=not run.processes.is_first,
    )
    bar.add_task(
        f"training on {run.dataset.name}",
        total=run.config.epochs * run.steps_per_epoch,
        completed=run.counters.step,
        nats="-" if math.isinf(run.counters.best_nats) else f"{run.counters.best_nats:.3f}",
    )
    return bar
