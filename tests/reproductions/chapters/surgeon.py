"""Hassibi and Stork, NIPS 1993: optimal brain surgeon and the first of MONK's problems."""

import itertools

import numpy as np
import torch
from torch import nn

import specop
from reproductions.book import Row

SIZES = (3, 3, 2, 3, 4, 2)
LEFT = 14


def problem():
    """Return all 432 robots, one-hot, and whether head and body have the same shape or the jacket is red."""
    robots = torch.tensor([*itertools.product(*map(range, SIZES))])
    ones = [nn.functional.one_hot(column, size) for column, size in zip(robots.T, SIZES, strict=True)]
    return torch.cat(ones, 1).double(), ((robots[:, 0] == robots[:, 1]) | (robots[:, 4] == 0)).double()[:, None]


def right(model, x, y):
    """Share of the robots that a model tells right, in percent."""
    with torch.no_grad():
        return 100 * float(((model(x) > 0.5) == (y > 0.5)).double().mean())


def rows():
    """Remove 44 of 58 weights one by one, after a training on 124 robots and with none in between."""
    x, y = problem()
    torch.manual_seed(0)
    seen = torch.randperm(len(x))[:124]
    model = nn.Sequential(nn.Linear(17, 3), nn.Tanh(), nn.Linear(3, 1), nn.Sigmoid()).double()
    search = "strong_wolfe"
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3000, tolerance_grad=1e-8, line_search_fn=search)

    def closure():
        optimizer.zero_grad()
        penalty = 1e-4 / 2 * sum((p**2).sum() for p in model.parameters())
        loss = nn.functional.mse_loss(model(x[seen]), y[seen]) + penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    n, before = sum(p.numel() for p in model.parameters()), right(model, x, y)
    found = [
        Row("weights and biases", "58", str(n), n == 58),
        Row("right of all 432 robots, %", "100", f"{before:.1f}", before == 100),
    ]
    objective = specop.objective(model, nn.functional.mse_loss, (x[seen], y[seen]))
    theta, steps = objective.theta, np.arange(1, n - LEFT + 1) / n
    for name, groups in (("left, biases stay", None), ("left, biases may go", np.arange(n)[:, None])):
        options = {"steps": steps, "groups": groups, "exclude": (), "layer_limit": 1.0, "trust": None}
        pruned = specop.analysis.prune(objective, steps[-1], matrix="ggn", theta=theta, **options)
        nn.utils.vector_to_parameters(pruned.theta, model.parameters())
        left, after = int(pruned.mask.sum()), right(model, x, y)
        found.append(Row(name, str(LEFT), str(left), left == LEFT))
        found.append(Row("right of all 432 robots, %", "100", f"{after:.1f}", after == 100))
    return found
