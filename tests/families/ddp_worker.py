"""One of the two processes of test_two_processes_equal_one: trains on its half of fixed batches."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dgm_fast.families import MADE, MADEConfig

WORLD_SIZE = 2
CONFIG = MADEConfig(9, (16, 16), order="random", num_masks=2, direct=True, context_features=2)


class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, context):
        return self.model.loss(x, context)


def train(model, loss, path, rows):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        x = torch.rand(8, 9, generator=generator).round()
        context = torch.randn(8, 2, generator=generator)
        model.training_step_begin(step)
        optimizer.zero_grad()
        loss(x[rows], context[rows]).backward()
        optimizer.step()

    grads = {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters()}
    save_file(model.state_dict() | grads, path)


def main(folder, rank):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE
    )
    # Processes begin apart: the first one's weights must reach the other.
    torch.manual_seed(rank)
    model = MADE(CONFIG)
    if rank == 0:
        alone = MADE(CONFIG)
        alone.load_state_dict(model.state_dict())
        train(alone, alone.loss, folder / "one.safetensors", slice(None))

    parallel = DistributedDataParallel(Loss(model))
    train(model, parallel, folder / f"{rank}.safetensors", slice(rank, None, WORLD_SIZE))
    # A process that tears its group down while the other still talks to it, or while the wrapper
    # holds the group, may find gloo's threads alive at exit, which aborts.
    del parallel
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
