"""Trainings at the edge of stability, of examples/edge_of_stability.py."""

import torch
from sklearn.datasets import load_digits

import edge_of_stability as example
from reproductions.book import Row


def trained(name, make):
    """Return the row of a training: the median of sharpness over the limit after the limit was reached."""
    torch.set_num_threads(1)
    pixels, classes = load_digits(return_X_y=True)
    inputs = torch.tensor(pixels[:600], dtype=torch.float32) / 16
    batch = inputs - inputs.mean(0), torch.tensor(classes[:600])
    run = example.follow(name, make, example.squared_error, batch, quick=False)
    return Row(f"{name}, sharpness over the limit", "1", f"{run.median:.3f}", abs(run.median - 1) < 0.1)
