"""One of the two processes of test_two_processes_initialise_as_one: their shards differ in size."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dgm_fast.layers import ActNorm

WORLD_SIZE = 2


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = ActNorm(3)
        self.last = nn.Linear(3, 1)

    def forward(self, x):
        y, log_det = self.norm(x)
        return self.last(y).square().sum() - log_det.sum()


def train(model, loss, path, shards):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = 4 + 3 * torch.randn(9, 3, generator=generator)
        parts = x.tensor_split([3])
        optimizer.zero_grad()
        # Sums over shards, averaged over processes.
        (loss(torch.cat([parts[i] for i in shards])) * len(shards) ** -1).backward()
        optimizer.step()

    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def main(folder, rank):
    torch.manual_seed(rank)
    model = Model()
    if rank == 0:
        alone = Model()
        alone.load_state_dict(model.state_dict())
        train(alone, alone, folder / "one.safetensors", [0, 1])

    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE
    )
    parallel = DistributedDataParallel(model)
    train(model, parallel, folder / f"{rank}.safetensors", [rank])
    # The wrapper holds the group, which must not be torn down while another process talks to it.
    del parallel
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
