"""Products on synthetic spectra, beside ARPACK on the same ones."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from tables import Row, print_table

_SIZE = 4000
_CASES = (
    *(("geo10", k) for k in (1, 5, 10, 20)),
    ("mult9", 5),
    ("cluster10", 9),
    ("cluster10", 10),
    ("power1", 10),
    ("power1", 20),
)
_GOALS = {("geo10", 1): 15, ("geo10", 5): 19, ("geo10", 10): 22}


def count_products(seeds: int, tol: float = 1e-3) -> list[Row]:
    """Run specop and ARPACK on diagonal matrices and print products and errors, the worst over all seeds.

    Parameters
    ----------
    seeds : int
        The start vectors are drawn with the seeds 0 to `seeds` - 1; ARPACK gets the same ones.
    tol : float
        Tolerance of both.

    Returns
    -------
    list of dict
        One row for each spectrum and k. ARPACK's error on mult9 is that of copies it misses.
    """
    import specop

    rows: list[Row] = []
    for name, k in _CASES:
        diagonal = SPECTRA[name]()
        exact = np.sort(diagonal)[-k:]
        ours = [specop.eigsh(specop.DiagonalOperator(diagonal), k=k, tol=tol, seed=seed) for seed in range(seeds)]
        theirs = [_arpack(diagonal, k, tol, seed) for seed in range(seeds)]
        rows.append(
            {
                "spectrum": name,
                "k": k,
                "products": max(result.matvecs for result in ours),
                "goal": _GOALS.get((name, k)),
                "of them checks": max(result.check_matvecs for result in ours),
                "above ARPACK, checks apart": max(
                    result.matvecs - result.check_matvecs - products
                    for result, (_, products) in zip(ours, theirs, strict=True)
                ),
                "error": max(_error(result.eigenvalues, exact) for result in ours),
                "ARPACK products": max(products for _, products in theirs),
                "ARPACK error": max(_error(values, exact) for values, _ in theirs),
            }
        )
    print_table(f"synthetic spectra, n = {_SIZE}, tol = {tol:g}, worst of {seeds} seeds", rows)
    return rows


def geo10() -> NDArray[np.float64]:
    """Ten outliers that fall by a quarter each, above a bulk."""
    return np.concatenate([100 * 0.75 ** np.arange(10), _bulk(_SIZE - 10)])


def mult9() -> NDArray[np.float64]:
    """The eigenvalue ten nine times, above a bulk."""
    return np.concatenate([np.full(9, 10.0), _bulk(_SIZE - 9)])


def cluster10() -> NDArray[np.float64]:
    """Ten outliers close together, above a bulk."""
    return np.concatenate([np.linspace(18, 20, 10), _bulk(_SIZE - 10)])


def power1() -> NDArray[np.float64]:
    """Eigenvalues that fall like 1 / i."""
    return 100 / np.arange(1.0, _SIZE + 1)


SPECTRA: dict[str, Callable[[], NDArray[np.float64]]] = {
    "geo10": geo10,
    "mult9": mult9,
    "cluster10": cluster10,
    "power1": power1,
}


def _bulk(size: int) -> NDArray[np.float64]:
    return np.minimum(np.random.default_rng(5).exponential(0.2, size), 1.3)


def _arpack(diagonal: NDArray[np.float64], k: int, tol: float, seed: int) -> tuple[NDArray[np.float64], int]:
    import specop
    from specop import probes

    calls = 0

    def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        return diagonal * vector.ravel()

    operator = LinearOperator((_SIZE, _SIZE), matvec=product, dtype=np.float64)
    like = specop.DiagonalOperator(diagonal)
    start = probes.normal(like.backend, like.domain, seed, 0)
    return np.sort(eigsh(operator, k=k, tol=tol, v0=start)[0]), calls


def _error(values: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
    return float(np.max(np.abs(values - exact) / np.abs(exact)))
