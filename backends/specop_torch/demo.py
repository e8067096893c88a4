"""The model behind `specop demo`: a small network that has learned to read handwritten digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import specop
from specop.errors import InvalidInputError

__all__ = ["objective"]

_EPOCHS = 40
_BATCH = 64


def objective() -> specop.Objective:
    """Train a network of 3,466 parameters on scikit-learn's digits and return its mean loss over all of them.

    Takes a few seconds. The same network comes out each time, and torch's global random state stays as it was.

    Returns
    -------
    Objective
        Mean cross-entropy over 1,797 images of 8 x 8 pixels.
    """
    images, labels = _digits()
    model = _trained(images, labels)
    return specop.objective(model, nn.functional.cross_entropy, (images, labels))


def _digits() -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InvalidInputError("the demo's images come with scikit-learn: pip install 'specop[cli]'.") from error
    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels)


def _trained(images: Tensor, labels: Tensor) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the accelerators as well, whose state nobody puts back.
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        steps = _EPOCHS * -(-len(images) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
        for _ in range(_EPOCHS):
            for chosen in torch.split(torch.randperm(len(images)), _BATCH):
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(model(images[chosen]), labels[chosen]))
                optimizer.step()
                schedule.step()
    return model.eval()
