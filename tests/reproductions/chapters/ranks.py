"""Singh, Bachmann and Hofmann, arXiv:2106.16225: the rank of the Hessian of a linear network."""

import itertools

import torch

import specop
from reproductions.book import Row

RANKS = {(6, 4, 3, 5): 48, (8, 5, 4): 56, (5, 7, 7, 3): 81, (10, 4, 6, 4, 8): 120, (12, 10, 9): 207}


def rows():
    """Ranks of five networks at random parameters."""
    found = []
    for sizes, published in RANKS.items():
        torch.manual_seed(0)
        layers = [torch.nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)]
        model = torch.nn.Sequential(*layers).double()
        data = torch.randn(100, sizes[0]).double(), torch.randn(100, sizes[-1]).double()
        rank = specop.rank(specop.objective(model, torch.nn.functional.mse_loss, data).hessian()).rank
        found.append(Row(f"widths {'-'.join(map(str, sizes))}", str(published), str(rank), rank == published))
    return found
