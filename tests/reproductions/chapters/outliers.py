"""Sagun et al., ICLR workshop 2018, and Papyan, arXiv:1811.07062: as many outliers as classes, less one."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import specop
from reproductions.book import Row


def digits(classes):
    """Return the images of the first digits, whose pixels are all positive, and what they are."""
    pixels, labels = load_digits(n_class=classes, return_X_y=True)
    return torch.tensor(pixels[:500]) / 16, torch.tensor(labels[:500])


def trained(classes, steps):
    """Return the objective of a network after some steps of gradient descent."""
    torch.manual_seed(0)
    x, y = digits(classes)
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, classes)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return specop.objective(model, nn.functional.cross_entropy, (x, y))


def rows():
    """Networks after 100 steps of gradient descent."""
    found = []
    for classes in (3, 5, 10):
        count = specop.landscape.outliers(trained(classes, 100), classes).count
        found.append(Row(f"{classes} classes", str(classes - 1), str(count), count == classes - 1))
    return found
