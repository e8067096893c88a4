"""Dinh et al., arXiv:1703.04933: a minimum as sharp as one likes, with the same function."""

import copy

import torch

import specop
from reproductions.book import Row


def rows():
    """Multiply a ReLU layer by a and divide the next one by it: blocks' traces go as 1 / a^2 and a^2."""
    torch.manual_seed(0)
    x, y = torch.randn(80, 5).double(), torch.randint(3, (80,))
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    scaled, a = copy.deepcopy(model), 10.0
    with torch.no_grad():
        scaled[0].weight *= a
        scaled[0].bias *= a
        scaled[2].weight /= a
    change = (model(x) - scaled(x)).abs().max().item()
    traces, sharpness = [], []
    for one in (model, scaled):
        objective = specop.objective(one, torch.nn.functional.cross_entropy, (x, y))
        traces.append([specop.trace(objective.restrict(f"{i}.weight").hessian()).estimate for i in (0, 2)])
        sharpness.append(specop.eigsh(objective.hessian(), k=1, which="LA").eigenvalues[-1])
    first, second = (traces[1][i] / traces[0][i] for i in (0, 1))
    times = sharpness[1] / sharpness[0]
    return [
        Row("change of the outputs", "none", "none" if change < 1e-12 else f"{change:.1e}", change < 1e-12),
        Row("trace of the first layer, times", "0.01", f"{first:.6f}", abs(first - 0.01) < 1e-7),
        Row("trace of the second layer, times", "100", f"{second:.4f}", abs(second - 100) < 1e-3),
        Row("largest eigenvalue, times", "any, by a", f"{times:.1f}", times > 20),
    ]
