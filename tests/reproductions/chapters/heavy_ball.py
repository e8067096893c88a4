"""Cohen et al., arXiv:2103.00065: heavy ball ends at the sharpness (2 + 2 momentum) / rate."""

import torch

from reproductions.chapters.edge import trained


def rows():
    """Two momenta."""
    return [
        trained(
            f"rate {rate}, momentum {momentum}",
            lambda weights, rate=rate, momentum=momentum: torch.optim.SGD(weights, lr=rate, momentum=momentum),
        )
        for rate, momentum in ((0.6, 0.5), (0.4, 0.9))
    ]
