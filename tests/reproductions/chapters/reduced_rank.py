"""Aoyagi and Watanabe, Neural Networks 18 (2005): learning coefficients of reduced-rank regression."""

import torch

import specop
from reproductions.book import Row

# Of inputs, hidden units and outputs, with a truth of rank 0.
KNOWN = {(5, 3, 5): 6.5, (5, 4, 5): 8.0, (4, 3, 8): 6.0, (8, 3, 4): 6.0, (3, 8, 4): 6.0}


def regression(first, second, target):
    """Return the squared error of a product of two matrices, summed over outputs."""
    x = torch.randn(40, len(first), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(params, batch):
        inputs, targets = batch
        return ((inputs @ params["a"] @ params["b"] - targets) ** 2).sum() / len(inputs)

    return specop.objective(loss, params={"a": first, "b": second}, data=(x, x @ target))


def rows():
    """Both factors zero, and a truth of full rank, for which the lower limit is the coefficient."""
    found = []
    for (inputs, hidden, outputs), published in KNOWN.items():
        zeros = (torch.zeros(a, b, dtype=torch.float64) for a, b in ((inputs, hidden), (hidden, outputs)))
        first, second = zeros
        bracket = specop.landscape.learning_coefficient(regression(first, second, first @ second))
        text, holds = f"{bracket.lower:g} to {bracket.upper:g}", bracket.lower <= published <= bracket.upper
        found.append(Row(f"{inputs}-{hidden}-{outputs}, truth of rank 0", f"{published:g}", text, holds))
    torch.manual_seed(0)
    first, second = torch.randn(5, 3).double(), torch.randn(3, 5).double()
    bracket = specop.landscape.learning_coefficient(regression(first, second, first @ second))
    text = f"{bracket.lower:g} to {bracket.upper:g}"
    return [*found, Row("5-3-5, truth of rank 3", "10.5", text, bracket.lower == 10.5)]
