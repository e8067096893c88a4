"""Curvature of a network that several processes train together, each with its part of the data.

Two processes on a CPU::

    torchrun --standalone --nproc-per-node=2 examples/ddp_torch.py

All of them make each call of specop together, as they make each step of training together. The first one prints.
"""

import argparse

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset, TensorDataset

import specop

SAMPLES = 301


def data():
    """Points of three classes; the same in each process."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(SAMPLES) % 3
    return TensorDataset(torch.randn(SAMPLES, 8, generator=generator) + labels[:, None], labels)


def network():
    """A small network; the same in each process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))


def train(model, loader, steps):
    """Take some steps with all data of the process."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(steps):
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


def main(steps=30):
    """Train, and look at the Hessian, in one process of a group."""
    rank, count = distributed.get_rank(), distributed.get_world_size()
    dataset = data()

    # Training may repeat samples and shuffle them. Curvature is that of a mean over data that stay: each process takes
    # every count-th sample, and parts need not be of the same size.
    part = DataLoader(Subset(dataset, range(rank, SAMPLES, count)), batch_size=64)
    model = DistributedDataParallel(network())
    train(model, DataLoader(Subset(dataset, range(rank, 300, count)), batch_size=300), steps)
    model.eval()

    objective = specop.objective(model, nn.functional.cross_entropy, part, parallel=True)
    loss, slope = objective.loss_and_gradient()
    hessian = objective.hessian()
    eigen = specop.eigsh(hessian, k=3, which="LA", tol=1e-6)
    trace = specop.trace(hessian, rtol=0.05)
    step = objective.solve(slope, matrix="ggn", damping=0.1)

    # All processes save together; the first one writes the file, which one process alone can read.
    eigen.save("eigen.npz")
    if rank == 0:
        print(f"{count} processes, {objective.samples} samples, loss {float(loss):.6f}")
        print(f"each holds {len(slope.to_local())} of {objective.n} entries of a vector, or fewer")
        print("largest eigenvalues", *(f"{value:.6f}" for value in eigen.eigenvalues))
        print(f"trace {trace.estimate:.4f} +- {trace.standard_error:.4f}, {trace.matvecs} products")
        print(f"Newton step: {step.matvecs} products, converged: {step.converged}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--steps", type=int, default=30)
    # Where torchrun has started this process: "nccl" on GPUs, after torch.cuda.set_device(local_rank).
    distributed.init_process_group("gloo")
    main(**vars(options.parse_args()))
    distributed.destroy_process_group()
