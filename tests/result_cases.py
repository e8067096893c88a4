"""One result of each shape, made by hand: pairs, a number, and densities of given rules."""

import numpy as np
import torch

from specop.results import EigenResult, SpectralDensity, TraceResult
from specop.results.structure import Structure
from specop.statistics.estimate import estimate_from_samples

MADE = {
    "matvecs": 12,
    "seconds": 0.5,
    "samples": 100,
    "seed": 3,
    "converged": True,
    "message": "done",
    "versions": {"numpy": "1"},
}


def eigen(**changed) -> EigenResult:
    values = {
        "eigenvalues": np.array([1.0, 2.0]),
        "rows": torch.eye(5)[:2],
        "residuals": np.array([1e-3, 2e-3]),
        "bounds": np.array([1e-6, 2e-6]),
        "check_matvecs": 4,
        "which": "LA",
        "tol": 1e-3,
        "structure": Structure({"a": (2, 2), "b": (1,)}, lambda vector: {"weight": vector}),
    }
    return EigenResult(**{**MADE, **values, **changed})


def estimated_trace(samples, method="hutchinson") -> TraceResult:
    value = estimate_from_samples(np.asarray(samples, dtype=float), 0.95)
    return TraceResult(
        **MADE,
        estimate=value.estimate,
        standard_error=value.standard_error,
        interval=value.interval,
        confidence=0.95,
        method=method,
        estimates=np.asarray(samples, dtype=float),
    )


def density(rules, known=(), n=100) -> SpectralDensity:
    """Build a density from one (nodes, weights) rule per probe, each of mass 1, and known eigenvalues."""
    share = 1 - len(known) / n
    nodes = np.concatenate([np.asarray(known, dtype=float), *(np.asarray(rule[0], dtype=float) for rule in rules)])
    weights = np.concatenate([np.full(len(known), 1 / n), *(np.asarray(w) * share / len(rules) for _, w in rules)])
    probe = np.concatenate([np.full(len(known), -1), *(np.full(len(rule[0]), i) for i, rule in enumerate(rules))])
    gauss = np.concatenate([np.full(len(known), 1 / n), *(np.asarray(w, dtype=float) for _, w in rules)])
    order = np.argsort(nodes, kind="stable")
    return SpectralDensity(
        **MADE,
        nodes=nodes[order],
        weights=weights[order],
        probe=probe[order].astype(np.int64),
        gauss_weights=gauss[order],
        couplings=np.zeros(len(nodes)),
        rounding=1e-14,
        error=0.0,
        n=n,
        steps=max([len(rule[0]) for rule in rules], default=1),
        confidence=0.95,
    )


TWO_PROBES = density([([0.0, 1.0], [0.75, 0.25]), ([0.0, 2.0], [0.5, 0.5])], known=[10.0])
ONE_PROBE = density([([0.0, 1.0, 3.0], [0.5, 0.25, 0.25])])
ALL = [eigen(), estimated_trace([1.0, 2.0, 4.0]), TWO_PROBES]
