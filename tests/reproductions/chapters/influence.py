"""Koh and Liang, arXiv:1703.04730: predicted and actual changes of a test loss by leaving samples out."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import specop
from reproductions.book import Row

DECAY = 0.01


def fitted(model, x, y):
    """Train to the minimum of the penalized loss."""
    optimizer = torch.optim.LBFGS(
        model.parameters(), lr=1.0, max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        penalty = DECAY / 2 * sum((p**2).sum() for p in model.parameters())
        loss = nn.functional.cross_entropy(model(x), y) + penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def rows():
    """The samples of the largest scores, and some others, for a convex model and for a network."""
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels) / 16, torch.tensor(classes)
    found = []
    for name, make, published, enough in (
        ("softmax regression, correlation", lambda: nn.Linear(64, 10), "about 1", 0.95),
        ("network, correlation", lambda: nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)), "0.86", 0.86),
    ):
        torch.manual_seed(0)
        model = fitted(make().double(), x[:300], y[:300])
        train, test = (
            specop.objective(model, nn.functional.cross_entropy, (x[part], y[part]))
            for part in (slice(0, 300), slice(300, 400))
        )
        scores = specop.analysis.influence(train, test, damping=DECAY)
        check = specop.analysis.validate_influence(train, test, scores, samples=16)
        found.append(Row(name, published, f"{check.correlation:.3f}", check.correlation >= enough))
    return found
