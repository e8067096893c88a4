"""How sharp is the minimum that a CNN with batch normalization has found, and which learning rate is stable there?

    python examples/cnn_batch_norm.py

Gradient descent on a quadratic with the largest eigenvalue lambda is stable for rates below 2 / lambda. The script
computes that limit for a network trained on Fashion-MNIST, and then tries a rate on either side of it. It also prints
the trace of the Hessian and how many of its eigenvalues stand out.
"""

from __future__ import annotations

from typing import NamedTuple

import data
import specop

try:
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import cross_entropy
except ImportError as error:
    data.missing(error)


class Answer(NamedTuple):
    """What was found, and where."""

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]
    objective: specop.Objective
    eigen: specop.results.EigenResult
    trace: specop.results.TraceResult
    density: specop.results.SpectralDensity
    losses: tuple[float, ...]
    """Before any step, and after some with 0.5 and 1.5 times the stable rate."""


def network(width: int) -> nn.Sequential:
    """Return three convolutions, each with batch normalization."""
    layers: list[nn.Module] = []
    for channels_in, channels_out in ((1, width), (width, 2 * width), (2 * width, 2 * width)):
        layers += [
            nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * 4 * 4, 10))


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Minimize the cross-entropy with a learning rate that goes to zero."""
    batches = [batch for _ in range(epochs) for batch in torch.randperm(len(images)).split(128)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for batch in batches:
        optimizer.zero_grad()
        cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        schedule.step()


def descend(objective: specop.Objective, rate: float, steps: int) -> float:
    """Return the loss after steps of plain gradient descent; the model itself stays as it is."""
    theta = objective.theta
    for _ in range(steps):
        theta -= rate * objective.gradient(theta)
    return float(objective.loss(theta))


def analyse(quick: bool) -> Answer:
    """Train the network and look at its Hessian."""
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, data.images(512 if quick else 8192))
    images = images.unsqueeze(1)
    model = network(width=4 if quick else 16)
    train(model, images, labels, epochs=10 if quick else 6)

    # Batch normalization in training mode couples the samples of a batch, so that the loss is no mean over samples:
    # without eval() specop raises, naming the layer.
    model.eval()
    seen = 256 if quick else 1024
    batches = list(zip(images[:seen].split(512), labels[:seen].split(512), strict=True))
    objective = specop.objective(model, cross_entropy, batches)
    H = objective.hessian()
    eigen = specop.eigsh(H, k=8, which="BE")
    trace = specop.trace(H, deflate=eigen, rtol=0.05)
    density = specop.spectral_density(H, deflate=eigen, steps=20 if quick else 40, probes=2)

    stable = 2 / eigen.eigenvalues[-1]
    losses = (float(objective.loss()), *(descend(objective, factor * stable, 5) for factor in (0.5, 1.5)))
    return Answer(model, batches, objective, eigen, trace, density, losses)


def main(arguments: list[str] | None = None) -> None:
    """Print the answer."""
    found = analyse(data.is_quick(__doc__, arguments))
    sharpness, error = found.eigen.eigenvalues[-1], found.eigen.bounds[-1]
    print(found.objective)
    print(found.eigen)
    print(f"\nsharpness {sharpness:.6g} (error <= {error:.1g}); the largest stable rate is {2 / sharpness:.4g}")
    print("loss {:.4f}; after 5 steps with 0.5 times that rate {:.4f}, with 1.5 times {:.4f}".format(*found.losses))
    print(found.trace)
    print(found.density)
    print(f"eigenvalues above a hundredth of it: {found.density.count(0.01 * sharpness, float('inf'))}")


if __name__ == "__main__":
    main()
