"""What a run must know of its processes: one alone, or many started by torchrun."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist

__all__ = ["Processes", "StopRequest", "process_group", "stop_request"]

AGREE_EVERY = 10
"""Steps between two agreements of all processes to stop; each costs a small all-reduce."""


@dataclass(frozen=True)
class Processes:
    """Hold this process's place among all; rank 0 logs and saves."""

    rank: int
    world_size: int

    @classmethod
    def current(cls) -> Processes:
        """Read the place from torch.distributed, or (0, 1) where it is not initialized."""
        if not dist.is_initialized():
            return cls(0, 1)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """True for the process that logs and saves."""
        return self.rank == 0

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value


@contextmanager
def process_group() -> Iterator[Processes]:
    """Join the process group when torchrun started this process, and leave it at the end."""
    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not launched or dist.is_initialized():
        yield Processes.current()
        return

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes.current()
        # No process may leave while another still talks to it; one that failed leaves at once.
        dist.barrier()
    finally:
        # A DistributedDataParallel lies in reference cycles and holds the group. Its threads must
        # end before the interpreter does, or one that then wants to run Python aborts the process.
        gc.collect()
        dist.destroy_process_group()


class StopRequest:
    """Remember that the user (SIGINT) or the cluster (SIGTERM) asked the run to stop."""

    def __init__(self) -> None:
        self.asked = False

    def agreed(self, step: int, processes: Processes, device: torch.device) -> bool:
        """Tell whether to stop after `step`; all processes get the same answer."""
        if processes.world_size == 1:
            return self.asked
        if step % AGREE_EVERY:
            return False
        return bool(processes.sum(torch.tensor(float(self.asked), device=device)) > 0)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request that the loop reads between two steps.

    A KeyboardInterrupt inside the optimizer's step would leave half of the weights updated, and
    such a state cannot be resumed. A second Ctrl-C acts at once.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, frame: FrameType | None) -> None:
        request.asked = True
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, remember)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
