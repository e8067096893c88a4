"""Intervals from a part of the data on small networks in hard cases, against the dense Hessian."""

import numpy as np
import pytest

import specop

torch = pytest.importorskip("torch")

import torch.nn.functional as F


def trained(model, criterion, data, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        x, y = (torch.cat(one) for one in zip(*data, strict=True))
        criterion(model(x), y).backward()
        optimizer.step()
    return specop.objective(model, criterion, data)


def network(outputs):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, outputs)).double()


def classes(samples):
    x = torch.tensor(np.random.default_rng(0).standard_normal((samples, 4)))
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).long()


def untrained():
    x, y = classes(400)
    return trained(network(2), F.cross_entropy, list(zip(x.split(64), y.split(64), strict=True)), 0)


def fitted():
    x, y = classes(64)
    return trained(network(2), F.cross_entropy, list(zip(x.split(20), y.split(20), strict=True)), 150)


def mislabeled():
    x, y = classes(400)
    y[::40] = 1 - y[::40]
    return trained(network(2), F.cross_entropy, list(zip(x.split(64), y.split(64), strict=True)), 60)


def heavy_tails():
    x, _ = classes(400)
    y = torch.tensor(np.random.default_rng(1).standard_t(2.1, (400, 1)))
    return trained(network(1), F.mse_loss, list(zip(x.split(64), y.split(64), strict=True)), 60)


def three_batches():
    """Of different sizes, one of which is unlike both others."""
    x, y = classes(330)
    x[250:300] *= 4.0
    return trained(
        network(2), F.cross_entropy, list(zip(x.split([250, 50, 30]), y.split([250, 50, 30]), strict=True)), 40
    )


CASES = [untrained, fitted, mislabeled, heavy_tails, three_batches]


@pytest.mark.parametrize(
    ("case", "runs", "least"),
    [
        (mislabeled, 2, 1),
        (three_batches, 2, 1),
        *(pytest.param(case, 50, 44, marks=pytest.mark.slow) for case in CASES),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_intervals_cover(case, runs, least):
    H = case().hessian()
    dense = H.to_dense().numpy()
    values = np.linalg.eigvalsh(dense)
    v = torch.ones(H.shape[1], dtype=torch.float64)
    form = float(v @ torch.tensor(dense) @ v)
    size = abs(form) + 0.01 * np.linalg.norm(values) * len(values)
    hits = dict.fromkeys(("trace", "largest", "second", "norm", "form", "density"), 0)
    for seed in range(500, 500 + runs):
        shared = {"data": "part", "seed": seed}
        trace = specop.trace(H, atol=0.1 * np.abs(values).sum(), **shared)
        norm = specop.frobenius_norm(H, rtol=0.2, **shared)
        along = specop.quadratic_form(H, v, atol=0.1 * size, **shared)
        for name, found, truth in (
            ("trace", trace, values.sum()),
            ("norm", norm, np.linalg.norm(values)),
            ("form", along, form),
        ):
            hits[name] += found.interval[0] - 1e-9 <= truth <= found.interval[1] + 1e-9
        eigen = specop.eigsh(H, 2, which="LA", rtol=0.2, confidence=0.95, **shared)
        inside = (eigen.intervals[:, 0] - 1e-9 <= values[-2:]) & (values[-2:] <= eigen.intervals[:, 1] + 1e-9)
        hits["second"], hits["largest"] = hits["second"] + inside[0], hits["largest"] + inside[1]
        density = specop.spectral_density(H, rtol=0.2, **shared)
        low, high = density.count(0.3 * values[-1], np.inf).interval
        hits["density"] += low <= (values > 0.3 * values[-1]).sum() <= high
    assert min(hits.values()) >= least, hits
