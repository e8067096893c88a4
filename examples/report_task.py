"""The curvature report of your own model: copy this file, change the three parts, and run

    specop report examples/report_task.py

A task file is an ordinary Python file with a function objective() that returns what specop.objective(...) gives.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import specop


def objective() -> specop.Objective:
    # 1. The data. Any re-iterable of batches will do, and the result is the exact mean over all of them. Do not
    #    shuffle or augment here: every product with the Hessian is a pass over the same data.
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    data = TensorDataset(images, torch.from_numpy(labels))
    batches = DataLoader(data, batch_size=600)

    # 2. The model, usually loaded from a checkpoint. Curvature is a property of one function, so the network must be in
    #    evaluation mode: batch norm then uses its running statistics, and dropout is off.
    model = train(data).eval()

    # 3. The loss, as a mean over a batch. select="4.*" would look at the parameters of one layer only.
    return specop.objective(model, nn.functional.cross_entropy, batches)


def train(data: TensorDataset) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        for images, labels in DataLoader(data, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model
