"""Errors of trace estimates at equal products, on synthetic spectra."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tables import Row, print_table

_SIZE = 1500
# The lowest error of any method that needs no positive semidefinite matrix, from plain implementations of the formulas.
_GOALS = {"geo10": 2.6e-3, "100 / i": 1.8e-3, "100 / i^2": 9e-5, "flat": 8e-4}
_PRODUCTS = {"geo10": 60, "100 / i": 180, "100 / i^2": 180, "flat": 180}


def compare_traces(seeds: int) -> list[Row]:
    """Estimate traces by every method with the same number of products and print their errors.

    Parameters
    ----------
    seeds : int
        The probes are drawn with the seeds 0 to `seeds` - 1.

    Returns
    -------
    list of dict
        One row for each spectrum and method: root mean square of the relative errors, the share of 95 % intervals that
        cover the truth, and the mean standard error over the true one. For the deflated estimate all products count,
        those of `eigsh` too.
    """
    rows: list[Row] = []
    for name, values in spectra().items():
        products, truth = _PRODUCTS[name], float(values.sum())
        for method, estimate in _estimates(values, products).items():
            results = [estimate(seed) for seed in range(seeds)]
            errors = np.array([result.estimate - truth for result in results])
            error = float(np.sqrt(np.mean(errors**2)))
            claimed = np.sqrt(np.mean([result.standard_error**2 for result in results]))
            inside = [result.interval[0] <= truth <= result.interval[1] for result in results]
            rows.append(
                {
                    "spectrum": name,
                    "products": products,
                    "method": method,
                    "error": error / truth,
                    "over the best known": error / truth / _GOALS[name],
                    "intervals that cover": float(np.mean(inside)),
                    "standard error over true": float(claimed / error),
                }
            )
    print_table(f"traces, n = {_SIZE}, root mean square of relative errors over {seeds} seeds", rows)
    return rows


def spectra() -> dict[str, NDArray[np.float64]]:
    """Return spectra that end in a bulk, fall slowly, fall fast, and do not fall."""
    ranks = np.arange(1.0, _SIZE + 1)
    bulk = np.minimum(np.random.default_rng(5).exponential(0.2, _SIZE - 10), 1.3)
    return {
        "geo10": np.concatenate([100 * 0.75 ** np.arange(10), bulk]),
        "100 / i": 100 / ranks,
        "100 / i^2": 100 / ranks**2,
        "flat": np.linspace(1, 3, _SIZE),
    }


def _estimates(values: NDArray[np.float64], products: int) -> dict[str, Callable[[int], Any]]:
    import specop

    # Probes on the sphere do not see the eigenvectors; random signs do.
    matrix = specop.DenseOperator(_rotated(values), is_symmetric=True)
    plain = specop.FunctionOperator(lambda vector: values * vector, (_SIZE, _SIZE), like=values, is_symmetric=True)

    def hutchinson(seed: int) -> Any:
        return specop.trace(matrix, method="hutchinson", max_matvecs=products, seed=seed)

    def deflated(seed: int) -> Any:
        top = specop.eigsh(matrix, k=10, tol=0.01, seed=seed, check_multiplicity=False)
        left = products - top.matvecs
        return specop.trace(matrix, method="hutchinson", max_matvecs=left, deflate=top, seed=seed)

    def sketching(method: str) -> Callable[[int], Any]:
        return lambda seed: specop.trace(plain, method=method, max_matvecs=products, seed=seed)

    sketches = {method: sketching(method) for method in ("hutch++", "xtrace", "xnystrace", "auto")}
    return {"hutchinson": hutchinson, "top 10 + hutchinson": deflated, **sketches}


def _rotated(values: NDArray[np.float64]) -> NDArray[np.float64]:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(_SIZE, _SIZE)))[0]
    return (basis * values) @ basis.T
