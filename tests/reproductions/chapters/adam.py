"""Cohen et al., arXiv:2207.14484: Adam ends at a preconditioned sharpness of 38 / rate."""

import torch

from reproductions.chapters.edge import trained


def rows():
    """One rate; the limit is that of momentum 0.9, 2 (1 + 0.9) / (1 - 0.9) / rate."""
    return [trained("rate 0.002", lambda weights: torch.optim.Adam(weights, lr=0.002))]
