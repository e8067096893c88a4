"""Does training end where the learning rate stops being stable?

    python examples/edge_of_stability.py edge_of_stability.png

A tanh network learns handwritten digits with a squared loss and all data in each step. The largest eigenvalue of the
Hessian rises until it reaches the limit of the optimizer's own steps, 2 / rate for gradient descent, and stays there:
the edge of stability (Cohen et al., arXiv:2103.00065). With momentum and with Adam the limit is another one, and with
Adam it is that of the preconditioned Hessian (arXiv:2207.14484); `specop.landscape.stability` reads both off the
optimizer. With cross-entropy the eigenvalue peaks early and falls away.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

import data
import specop

try:
    import torch
    from sklearn.datasets import load_digits
    from torch import Tensor, nn
except ImportError as error:
    data.missing(error)

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
RECORDS = 20
"""Records after the limit was reached, of which the median is taken."""


class Run(NamedTuple):
    """A training and the records on its way."""

    name: str
    model: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    steps: np.ndarray
    ratios: np.ndarray
    """Sharpness over the limit of the optimizer's steps."""
    losses: np.ndarray
    found: specop.results.StabilityResult | None
    """The last record."""
    products: int

    @property
    def reached(self) -> int | None:
        """Number of the first record at or above the limit."""
        above = np.flatnonzero(self.ratios >= 1)
        return int(above[0]) if len(above) else None

    @property
    def median(self) -> float:
        """Of the ratios of the records that follow; NaN if there are too few."""
        after = [] if self.reached is None else self.ratios[self.reached + 1 :][:RECORDS]
        return float(np.median(after)) if len(after) == RECORDS else np.nan


class Answer(NamedTuple):
    """All trainings, and what they were trained on."""

    runs: list[Run]
    inputs: Tensor
    labels: Tensor


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half of the squared distance to one in the place of the class, mean over samples."""
    return 0.5 * ((outputs - nn.functional.one_hot(labels, 10)) ** 2).sum(1).mean()


def network(width: int) -> nn.Sequential:
    """Return a perceptron with two hidden layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10))


def follow(
    name: str, make: Make, criterion: Callable[[Tensor, Tensor], Tensor], batch: tuple[Tensor, Tensor], quick: bool
) -> Run:
    """Train a network; look at its sharpness now and then, from the eigenvector of the record before."""
    model = network(width=6 if quick else 50)
    optimizer = make(model.parameters())
    objective = specop.objective(model, criterion, batch)
    # The first steps of Adam divide by the gradient of a step or two, and are no measure of what follows.
    every, last = (10, 40) if quick else (25, 2000)
    found, rows, products = None, [], 0
    for step in range(1, last + 1):
        optimizer.zero_grad()
        criterion(model(batch[0]), batch[1]).backward()
        optimizer.step()
        if step % every == 0:
            found = specop.landscape.stability(objective, optimizer, v0=found, tol=1e-2, steps=0, condition_matvecs=0)
            rows.append((step, found.ratio, float(objective.loss())))
            products += found.matvecs
        reached = [number for number, row in enumerate(rows) if row[1] >= 1]
        if reached and len(rows) > reached[0] + RECORDS + 5:
            break
    steps, ratios, losses = np.array(rows).T
    return Run(name, model, criterion, steps, ratios, losses, found, products)


def analyse(quick: bool) -> Answer:
    """Train with each optimizer."""
    # The matrices are too small for several threads.
    torch.set_num_threads(1)
    pixels, classes = load_digits(return_X_y=True)
    seen = 100 if quick else 600
    inputs = torch.tensor(pixels[:seen], dtype=torch.float32) / 16
    inputs, labels = inputs - inputs.mean(0), torch.tensor(classes[:seen])
    sgd, adam = torch.optim.SGD, torch.optim.Adam
    cross_entropy = nn.functional.cross_entropy
    trainings: list[tuple[str, Make, Callable[[Tensor, Tensor], Tensor]]] = [
        ("gradient descent, rate 0.3", lambda weights: sgd(weights, lr=0.3), squared_error),
        ("gradient descent, rate 0.4", lambda weights: sgd(weights, lr=0.4), squared_error),
        ("gradient descent, rate 0.5", lambda weights: sgd(weights, lr=0.5), squared_error),
        ("heavy ball, rate 0.6, momentum 0.5", lambda weights: sgd(weights, lr=0.6, momentum=0.5), squared_error),
        ("heavy ball, rate 0.4, momentum 0.9", lambda weights: sgd(weights, lr=0.4, momentum=0.9), squared_error),
        ("Adam, rate 0.002", lambda weights: adam(weights, lr=0.002), squared_error),
        ("cross-entropy, gradient descent, rate 0.5", lambda weights: sgd(weights, lr=0.5), cross_entropy),
    ]
    runs = [follow(name, make, criterion, (inputs, labels), quick) for name, make, criterion in trainings]
    return Answer(runs, inputs, labels)


def draw(runs: list[Run], picture: str) -> None:
    """Draw the ratios of all trainings over the steps."""
    from matplotlib import pyplot

    figure, ax = pyplot.subplots(figsize=(8, 4.4), layout="constrained")
    for run in runs:
        ax.plot(run.steps, run.ratios, label=run.name, linewidth=1.3)
    ax.axhline(1.0, color="#4a4a4a", linestyle="--", linewidth=1.0)
    ax.set(xlabel="step", ylabel="sharpness / limit of stable steps", ylim=(0, None))
    ax.set_title("The sharpness rises to the limit of the optimizer, and stays there")
    ax.legend(frameon=False, fontsize=8)
    figure.savefig(picture, dpi=120)
    print(f"{picture} written")


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", help="where to draw the sharpness over the steps")
    parser.add_argument("--quick", action="store_true", help="a tiny model on few data, to see that it works")
    chosen = parser.parse_args(arguments)
    found = analyse(chosen.quick)
    print(f"sharpness over the limit: in the first record, the largest, the last, and the median of {RECORDS} records")
    print("after the first that reached the limit\n")
    print(f"{'':42} {'first':>6} {'max':>6} {'last':>6} {'reached':>8} {'median':>7} {'loss':>8} {'products':>9}")
    for run in found.runs:
        reached = "never" if run.reached is None else f"{run.steps[run.reached]:.0f}"
        median = "" if np.isnan(run.median) else f"{run.median:.3f}"
        ratios = f"{run.ratios[0]:6.2f} {run.ratios.max():6.2f} {run.ratios[-1]:6.2f}"
        print(f"{run.name:42} {ratios} {reached:>8} {median:>7} {run.losses[-1]:8.4f} {run.products:9}")
    print()
    print(found.runs[0].found)
    if chosen.picture:
        draw(found.runs, chosen.picture)


if __name__ == "__main__":
    main()
