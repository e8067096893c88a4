"""Cohen et al., arXiv:2103.00065: gradient descent ends at the sharpness 2 / rate."""

import torch

from reproductions.chapters.edge import trained


def rows():
    """Two rates."""
    return [
        trained(f"rate {rate}", lambda weights, rate=rate: torch.optim.SGD(weights, lr=rate)) for rate in (0.3, 0.4)
    ]
