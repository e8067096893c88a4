"""Ghorbani, Krishnan and Xiao, arXiv:1901.10159: batch normalization keeps outliers of the Hessian near its bulk."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import specop
from reproductions.book import Row


def network(norm):
    """Return a perceptron of six hidden layers."""
    torch.manual_seed(0)
    layers, width = [], 64
    for _ in range(6):
        layers += [nn.Linear(width, 32), *([nn.BatchNorm1d(32)] if norm else []), nn.ReLU()]
        width = 32
    return nn.Sequential(*layers, nn.Linear(width, 10))


def rows():
    """The first eigenvalue over the eleventh, the first beyond the classes, after 600 steps."""
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels[:600], dtype=torch.float32) / 16, torch.tensor(classes[:600])
    x, found = x - x.mean(0), []
    for norm in (False, True):
        model, draws = network(norm), torch.Generator().manual_seed(0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for _ in range(600):
            chosen = torch.randint(600, (64,), generator=draws)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
        objective = specop.objective(model.eval(), nn.functional.cross_entropy, (x, y))
        values = specop.eigsh(objective.hessian(), k=11, which="LA", tol=1e-2).eigenvalues
        found.append((float(values[-1] / values[0]), float(objective.loss())))
    (without, loss), (normalized, lower) = found
    reached = normalized < without
    return [
        Row(f"without, at a loss of {loss:.1f}", "large", f"{without:.1f}", reached),
        Row(f"with it, at a loss of {lower:.3f}", "smaller", f"{normalized:.1f}", reached),
    ]
