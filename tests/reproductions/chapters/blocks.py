"""Zhang et al., arXiv:2402.16788: blocks of the Hessian differ in a transformer and are alike in a CNN."""

import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import specop
from reproductions.book import Row


class Block(nn.Module):
    """Attention of one head, and a perceptron, each behind a normalization."""

    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        """Return an array of the same shape."""
        z = self.first(x)
        weights = (self.query(z) @ self.key(z).transpose(1, 2) / math.sqrt(z.shape[-1])).softmax(-1)
        x = x + self.out(weights @ self.value(z))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    """Patches of 2 x 2 pixels, two blocks, and the mean over patches."""

    def __init__(self, width=16):
        super().__init__()
        self.embed, self.place = nn.Linear(4, width), nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        """Return logits of images."""
        patches = nn.functional.unfold(x, 2, stride=2).transpose(1, 2)
        return self.head(self.norm(self.blocks(self.embed(patches) + self.place)).mean(1))


def convolutions():
    """Return a network of four convolutions."""
    layers = []
    for before, after in ((1, 12), (12, 12), (12, 16), (16, 16)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    layers.insert(4, nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def rows():
    """Largest eigenvalues of the blocks, and distances of their spectra, after 60 steps of Adam."""
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels[:200], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(classes[:200])
    ratios, distances = [], []
    for make in (convolutions, Transformer):
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        objective = specop.objective(model, nn.functional.cross_entropy, (x, y))
        # Weights without biases and factors of norms, as in the paper.
        names = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
        found = specop.landscape.blocks(objective, names, steps=20, probes=2)
        ratios.append(float(found.largest.max() / found.largest.min()))
        distances.append(float(found.distances[np.triu_indices(len(names), 1)].mean()))
    differ = ratios[1] > 10 * ratios[0]
    apart = distances[1] > 2 * distances[0]
    return [
        Row("blocks' largest eigenvalues, first over last, CNN", "alike", f"{ratios[0]:.1f}", differ),
        Row("the same, transformer", "far apart", f"{ratios[1]:.0f}", differ),
        Row("mean distance of spectra, CNN", "small", f"{distances[0]:.3f}", apart),
        Row("the same, transformer", "several times", f"{distances[1]:.3f}", apart),
    ]
