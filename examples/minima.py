"""Do small batches, large batches and sharpness-aware steps end in minima of different shape, and does it matter?

    python examples/minima.py

A CNN is trained three times from the same start on Fashion-MNIST until its loss is equally small: by SGD with small
batches, by SGD with large ones, and by sharpness-aware minimization (SAM). The script puts the minima side by side with
specop.landscape.compare and says of each measure whether it orders them as the error on other images does.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import data
import specop

try:
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import cross_entropy
except ImportError as error:
    data.missing(error)


class Minimum(NamedTuple):
    """A trained network."""

    model: nn.Module
    epochs: int
    test_error: float
    test_deviation: float
    """Standard deviation of the test error by the choice of images."""

    flatness: specop.results.FlatnessResult


class Answer(NamedTuple):
    """What was found."""

    minima: dict[str, Minimum]
    comparisons: dict[str, specop.results.ComparisonResult]


MEASURES = [
    "largest_eigenvalue",
    "trace",
    "frobenius_norm",
    "ball_sharpness",
    "adaptive_sharpness",
    "average_rise",
    "relative_flatness",
    "fisher_rao_norm",
    "pac_bayes_sigma",
    "pac_bayes_relative_sigma",
]
# Of these more is flatter.
LEVELS = ("pac_bayes_sigma", "pac_bayes_relative_sigma")


def network(width: int) -> nn.Sequential:
    """Return two convolutions without normalization, whose scales the curvature sees."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 49, 10),
    )


def train(
    model: nn.Module, images: Tensor, labels: Tensor, *, batch: int, rate: float, radius: float, goal: float, most: int
) -> int:
    """Minimize the cross-entropy until the loss is below a goal, and return the number of epochs.

    Parameters
    ----------
    model : torch.nn.Module
    images, labels : tensor
    batch : int
        Images in each step.
    rate : float
        Learning rate; the momentum is 0.9.
    radius : float
        Steps take the gradient at the largest loss within this distance, as SAM does; 0 for plain SGD.
    goal : float
        Where to stop, as a mean loss over all images.
    most : int
        Largest number of epochs.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    parameters = list(model.parameters())
    for epoch in range(most):
        for chosen in torch.randperm(len(images)).split(batch):
            gradients = torch.autograd.grad(cross_entropy(model(images[chosen]), labels[chosen]), parameters)
            if radius:
                length = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])) + 1e-12
                away = [g * (radius / length) for g in gradients]
                with torch.no_grad():
                    torch._foreach_add_(parameters, away)
                gradients = torch.autograd.grad(cross_entropy(model(images[chosen]), labels[chosen]), parameters)
                with torch.no_grad():
                    torch._foreach_sub_(parameters, away)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        with torch.no_grad():
            if cross_entropy(model(images), labels) < goal:
                return epoch + 1
    return most


def analyse(quick: bool) -> Answer:
    """Train three times and compare."""
    torch.manual_seed(0)
    seen, held = (256, 256) if quick else (1024, 4096)
    images, labels = map(torch.from_numpy, data.images(seen + held))
    images = images.unsqueeze(1)
    start = network(width=2 if quick else 8)
    goal, most = (0.5, 15) if quick else (0.02, 150)
    ways = {
        "small batches": {"batch": 16, "rate": 0.01, "radius": 0.0},
        "large batches": {"batch": len(images[:seen]) // 2, "rate": 0.05, "radius": 0.0},
        "SAM": {"batch": 16, "rate": 0.01, "radius": 0.1},
    }
    minima = {}
    for name, way in ways.items():
        torch.manual_seed(1)
        model = copy.deepcopy(start)
        epochs = train(model, images[:seen], labels[:seen], goal=goal, most=most, **way)
        batches = list(zip(images[:seen].split(512), labels[:seen].split(512), strict=True))
        objective = specop.objective(model, cross_entropy, batches)
        flatness = specop.landscape.flatness(objective, measures=MEASURES[:4] if quick else MEASURES, draws=8)
        with torch.no_grad():
            wrong = model(images[seen:]).argmax(1) != labels[seen:]
        share = float(wrong.float().mean())
        minima[name] = Minimum(model, epochs, share, (share * (1 - share) / len(wrong)) ** 0.5, flatness)
    comparisons = {
        other: specop.landscape.compare(
            minima["small batches"].flatness, minima[other].flatness, names=("small batches", other)
        )
        for other in ("large batches", "SAM")
    }
    return Answer(minima, comparisons)


def agreement(found: Answer) -> dict[str, list[str]]:
    """Return, for each measure, whether the flatter one of two minima has the smaller test error."""
    verdicts: dict[str, list[str]] = {}
    for comparison in found.comparisons.values():
        errors = {name: found.minima[name].test_error for name in comparison.names}
        better = min(errors, key=errors.__getitem__)
        for measure, difference in comparison.measures.items():
            values = dict(zip(comparison.names, (difference.a.estimate, difference.b.estimate), strict=True))
            sign = -1 if measure in LEVELS else 1
            flatter = min(values, key=lambda name, values=values, sign=sign: sign * values[name])
            verdicts.setdefault(measure, []).append("agrees" if flatter == better else "disagrees")
    return verdicts


def main(arguments: list[str] | None = None) -> None:
    """Print the answer."""
    found = analyse(data.is_quick(__doc__, arguments))
    for name, minimum in found.minima.items():
        print(
            f"{name}: loss {minimum.flatness.loss:.4f} after {minimum.epochs} epochs, "
            f"{100 * minimum.test_error:.2f} +- {100 * minimum.test_deviation:.2f} % of other images wrong"
        )
    for comparison in found.comparisons.values():
        print(f"\n{comparison}")
    print(f"\n{'is flatter better?':30} {'  '.join(f'{name:14}' for name in found.comparisons)}")
    for measure, verdicts in agreement(found).items():
        print(f"{measure:30} {'  '.join(f'{verdict:14}' for verdict in verdicts)}")


if __name__ == "__main__":
    main()
