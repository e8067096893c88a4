"""How does the curvature that LoRA adapters see grow while they are trained?

    python examples/lora_through_training.py

A network that reads images learns to read them turned by a quarter, through LoRA adapters of rank four (Hu et al.,
LoRA: low-rank adaptation of large language models, ICLR 2022). Two monitors follow it, on the same loss and the same
images: one of the adapters, one of the weights that they adapt, and so of what training these would see. While B is
zero a change of A changes nothing: the adapters' Hessian has no block of A, and what couples A to B makes its smallest
eigenvalue negative as long as the loss has a slope in the weights.
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

Batch = tuple[Tensor, Tensor]
SHOWN = ("eigenvalue_1", "eigenvalue_2", "flatness_effective_dimension")


class Answer(NamedTuple):
    """What was found."""

    model: nn.Module
    batch: Batch
    """The images that curvature was recorded on."""
    start: dict[str, Tensor]
    """Parameters of the model before the adapters were trained."""
    of_a_alone: float
    """Largest entry of a product with the block of A then."""
    adapters: specop.results.HistoryResult
    adapted: specop.results.HistoryResult


class Adapted(nn.Module):
    """A linear layer W x with an adapter: (W + B A) x, names as in peft."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.lora_A = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


def train(model: nn.Module, pattern: str, batch: Batch, steps: int, monitors: list[specop.training.Monitor]) -> None:
    """Fit the parameters whose names hold a pattern; monitors record before each step, and at the end."""
    chosen = [parameter for name, parameter in model.named_parameters() if pattern in name]
    optimizer = torch.optim.Adam(chosen, lr=5e-3)
    for step in range(steps + 1):
        for monitor in monitors:
            monitor.record(step)
        model.zero_grad()
        cross_entropy(model(batch[0]), batch[1]).backward()
        if step < steps:
            optimizer.step()


def analyse(quick: bool) -> Answer:
    """Train a network and then its adapters, and record the curvature of both."""
    torch.manual_seed(0)
    pixels, classes = data.images(64 if quick else 1024)
    step = 4 if quick else 1
    images = torch.from_numpy(pixels[:, ::step, ::step].copy())
    labels, turned = torch.from_numpy(classes), torch.rot90(images, dims=(1, 2)).flatten(1)
    width, rank, steps = (3, 1, 20) if quick else (32, 4, 200)
    model = nn.Sequential(
        Adapted(turned.shape[1], width, rank), nn.Tanh(), Adapted(width, width, rank), nn.Tanh(), nn.Linear(width, 10)
    )
    train(model, "base", (images.flatten(1), labels), 3 * steps, [])

    batch = turned[:256], labels[:256]
    objective = specop.objective(model, cross_entropy, batch)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    A = objective.restrict("*lora_A")
    of_a_alone = float((A.hessian() @ torch.ones(A.n)).abs().max())
    what = {"eigenvalues": {"k": 2, "which": "BE"}, "flatness": {"measures": ["effective_dimension"], "prior": 0.1}}
    monitors = [
        specop.training.Monitor(objective.restrict(select), every=steps // 5, what=what)
        for select in ("*lora_*", "*base.weight")
    ]
    train(model, "lora_", (turned, labels), steps, monitors)
    return Answer(model, batch, start, of_a_alone, monitors[0].history, monitors[1].history)


def main(arguments: list[str] | None = None) -> None:
    """Print the answer."""
    found = analyse(data.is_quick(__doc__, arguments))
    sizes = [sum(torch.Size(shape).numel() for shape in one.structure.shapes.values()) for one in found[-2:]]
    print(f"adapters {sizes[0]:,} parameters, the weights that they adapt {sizes[1]:,}")
    print(f"while B is zero, a change of A alone changes nothing: H v = {found.of_a_alone:g} for such v\n")
    heads = ("largest eigenvalue", "smallest eigenvalue", "effective dimension")
    print(f"{'':>15} " + " ".join(f"{head:>33}" for head in heads))
    print(f"{'step':>6} {'loss':>8} " + f"{'adapters':>17} {'weights':>15} " * 3)
    for at, step in enumerate(found.adapters.steps):
        print(f"{step:6} {found.adapters['loss'][at]:8.4f} ", end="")
        numbers = [(one[name][at], one[f"{name}_error"][at]) for name in SHOWN for one in found[-2:]]
        print(" ".join(f"{f'{value:.4g} +- {error:.1g}':>16}" for value, error in numbers))


if __name__ == "__main__":
    main()
