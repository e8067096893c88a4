"""Which training images matter for a small CNN: predicted influences beside retraining without the images.

    python examples/influence_torch.py

It trains a network on handwritten digits with weight decay, goes on to a minimum by Newton steps, predicts what the
removal of each training image does to the test loss, retrains without the most influential ones, and draws predicted
against actual changes to influence.png. It needs torch, scikit-learn and matplotlib.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import specop

L2 = 1e-2


class Answer(NamedTuple):
    """What was predicted, and what came true."""

    minimum: specop.results.RetrainResult
    first: specop.results.InfluenceResult
    newton: specop.results.InfluenceResult
    check: specop.results.InfluenceCheck
    newton_correlation: float


def load_images(count: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and test images with labels, in double precision, in which minima are found to many digits."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16.0)[:, None], torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:count], order[count : 2 * count]
    return (images[train], labels[train]), (images[test], labels[test])


def train(images: Tensor, labels: Tensor) -> nn.Module:
    """Return a CNN after a short training."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 10)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=L2)
    for _ in range(300):
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def main(count: int = 400, removed: int = 30, plot: str | os.PathLike[str] = "influence.png") -> Answer:
    """Train, predict, retrain and draw.

    Parameters
    ----------
    count : int
        Training images, and as many test images.
    removed : int
        How many of the most influential ones are removed, one at a time.
    plot : path
        Where the picture goes.
    """
    training, test = load_images(count)
    model = train(*training)
    train_loss = specop.objective(model, cross_entropy, training)
    test_loss = specop.objective(model, cross_entropy, test)

    # Influence is a statement about a minimum: go to one. damping is the weight decay.
    minimum = specop.analysis.retrain(train_loss, damping=L2)
    model.load_state_dict(minimum.parameters)
    print(minimum, end="\n\n")

    first = specop.analysis.influence(train_loss, test_loss, damping=L2)
    print(first)
    for name, (images, _) in (("helpful", first.most_helpful(5)), ("harmful", first.most_harmful(5))):
        print(f"digits of the most {name} images: {training[1][images].tolist()}")

    check = specop.analysis.validate_influence(train_loss, test_loss, first, samples=removed)
    print("", check, sep="\n")
    # One Newton step without the image takes a solve for each, so it is for these only.
    newton = specop.analysis.influence(train_loss, test_loss, damping=L2, indices=check.indices, newton=True)
    newton_correlation = float(np.corrcoef(newton.scores, check.actual)[0, 1])
    print(f"predicted by a Newton step: correlation {newton_correlation:.4f}, {newton.matvecs} products")

    ax = check.plot()
    ax.plot(check.actual, newton.scores, "x", color="#d9601a", markersize=5, label="predicted by a Newton step")
    ax.legend(frameon=False)
    ax.figure.savefig(plot, dpi=150)
    plt.close(ax.figure)
    return Answer(minimum, first, newton, check, newton_correlation)


if __name__ == "__main__":
    main()
