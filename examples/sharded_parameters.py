"""How sharp is a model whose parameters do not fit into one process? Sharded as for training, by FSDP2.

    torchrun --standalone --nproc-per-node=2 examples/sharded_parameters.py

Each process holds a part of every parameter and reads its part of the data. Curvature is computed layer by layer: a
layer's parameters are whole only while it runs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import specop


@dataclass
class Found:
    """What all processes have found together."""

    eigen: Any
    trace: Any
    losses: list[float]


def network(width: int) -> nn.Module:
    """A small classifier of points in the plane."""
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))


def spirals(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on two arms of a spiral, and on which one each is."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 2
    angle = 6.0 * torch.rand(count, generator=generator)
    x = angle[:, None] * torch.stack([torch.cos(angle + torch.pi * y), torch.sin(angle + torch.pi * y)], 1) / 6.0
    return x + 0.02 * torch.randn(count, 2, generator=generator), y


def main(width: int = 64, count: int = 512, steps: int = 200) -> Found:
    """Train the sharded model, then ask for the largest eigenvalues and the trace of its Hessian."""
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    mesh = init_device_mesh("cpu", (processes,))
    torch.manual_seed(0)
    sharded = network(width)
    for layer in sharded:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    # This process's part: every sample belongs to one process, and parts may be of different size.
    x, y = (part[rank::processes] for part in spirals(count))

    # The same model without hooks. It needs no memory: its parameters are never read.
    with torch.device("meta"):
        bare = network(width)
    params = dict(sharded.named_parameters())
    objective = specop.objective(bare, nn.functional.cross_entropy, (x, y), params=params, parallel=mesh)
    losses = [float(objective.loss())]
    optimizer = torch.optim.Adam(sharded.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(sharded(x), y).backward()
        optimizer.step()
    losses.append(float(objective.loss()))
    hessian = objective.hessian()
    found = Found(specop.eigsh(hessian, k=2), specop.trace(hessian, rtol=0.1), losses)
    if rank == 0:
        print(f"loss {losses[0]:.4f} before training, {losses[1]:.4f} after it")
        print(f"{objective.n} parameters, of which this process holds {found.eigen.rows.to_local().shape[1]} entries")
        print(found.eigen)
        print(found.trace)
    return found


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    main()
    distributed.destroy_process_group()
