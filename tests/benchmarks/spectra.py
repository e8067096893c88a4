"""Products on synthetic spectra, beside ARPACK and PRIMME on the same ones from the same start vectors."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from tables import Row, print_table

_SIZE = 4000
_TOLERANCES = (1e-3, 1e-6)
_CASES = (
    *(("geo10", k) for k in (1, 5, 10, 20)),
    ("mult9", 5),
    ("cluster10", 9),
    ("cluster10", 10),
    ("power1", 10),
    ("power1", 20),
)
_CHECKED, _UNCHECKED = "specop.eigsh", "specop.eigsh, unchecked"

Vector = NDArray[np.float64]


class _Run(NamedTuple):
    """What one call returned."""

    values: Vector
    vectors: NDArray[np.float64]
    products: int
    checks: int = 0


def count_products(seeds: int) -> list[Row]:
    """Run every method on diagonal matrices and print products and what they led to, the worst over all seeds.

    A pair has converged when its residual is at most the tolerance times its eigenvalue, for every method.

    Parameters
    ----------
    seeds : int
        The start vectors are drawn with the seeds 0 to `seeds` - 1; every method gets the same ones.

    Returns
    -------
    list of dict
        One row for each tolerance, spectrum, k and method. "unchecked above" is the most by which the products of
        specop without its check exceed the method's from one start vector, "residual" the largest true one in units of
        what the tolerance allows, and "wrong" the number of eigenvalues that are off by more than the tolerance: copies
        that were missed.
    """
    methods: dict[str, Callable[[Vector, int, float, int], _Run]] = {
        _CHECKED: _specop,
        _UNCHECKED: lambda diagonal, k, tol, seed: _specop(diagonal, k, tol, seed, check_multiplicity=False),
        "ARPACK": _arpack,
    }
    if importlib.util.find_spec("primme") is None:
        print("notice: PRIMME is left out, primme is not installed")
    else:
        methods["PRIMME GD+k"] = _primme
        methods["PRIMME GD+k, restarts with 1"] = lambda diagonal, k, tol, seed: _primme(
            diagonal, k, tol, seed, minRestartSize=1
        )
    rows: list[Row] = []
    for tol in _TOLERANCES:
        table = [row for name, k in _CASES for row in _compare(methods, name, k, tol, seeds)]
        print_table(f"synthetic spectra, n = {_SIZE}, tol = {tol:g}, worst of {seeds} seeds", table)
        rows += table
    return rows


def _compare(
    methods: dict[str, Callable[[Vector, int, float, int], _Run]], name: str, k: int, tol: float, seeds: int
) -> list[Row]:
    diagonal = SPECTRA[name]()
    exact = np.sort(diagonal)[-k:]
    found = {method: [run(diagonal, k, tol, seed) for seed in range(seeds)] for method, run in methods.items()}
    return [
        {
            "tol": tol,
            "spectrum": name,
            "k": k,
            "method": method,
            "products": max(run.products for run in runs),
            "of them checks": max(run.checks for run in runs),
            "unchecked above": None if method in (_CHECKED, _UNCHECKED) else _excess(found[_UNCHECKED], runs),
            "residual": max(_residual(diagonal, run) for run in runs) / tol,
            "wrong": max(_wrong(run.values, exact, tol) for run in runs),
        }
        for method, runs in found.items()
    ]


def geo10() -> Vector:
    """Ten outliers that fall by a quarter each, above a bulk."""
    return np.concatenate([100 * 0.75 ** np.arange(10), _bulk(_SIZE - 10)])


def mult9() -> Vector:
    """The eigenvalue ten nine times, above a bulk."""
    return np.concatenate([np.full(9, 10.0), _bulk(_SIZE - 9)])


def cluster10() -> Vector:
    """Ten outliers close together, above a bulk."""
    return np.concatenate([np.linspace(18, 20, 10), _bulk(_SIZE - 10)])


def power1() -> Vector:
    """Eigenvalues that fall like 1 / i."""
    return 100 / np.arange(1.0, _SIZE + 1)


SPECTRA: dict[str, Callable[[], Vector]] = {
    "geo10": geo10,
    "mult9": mult9,
    "cluster10": cluster10,
    "power1": power1,
}


def _bulk(size: int) -> Vector:
    return np.minimum(np.random.default_rng(5).exponential(0.2, size), 1.3)


def _specop(diagonal: Vector, k: int, tol: float, seed: int, **options: Any) -> _Run:
    import specop

    result = specop.eigsh(specop.DiagonalOperator(diagonal), k=k, tol=tol, seed=seed, **options)
    return _Run(result.eigenvalues, result.eigenvectors, result.matvecs, result.check_matvecs)


def _arpack(diagonal: Vector, k: int, tol: float, seed: int) -> _Run:
    matrix, calls = _counted(diagonal)
    values, vectors = eigsh(matrix, k=k, tol=tol, v0=_start(diagonal, seed))
    return _Run(values, vectors, len(calls))


def _primme(diagonal: Vector, k: int, tol: float, seed: int, **options: Any) -> _Run:
    """Run what PRIMME has for the fewest products, with the test of the others instead of its own, tol times norm."""
    import primme

    matrix, calls = _counted(diagonal)
    values, vectors = primme.eigsh(
        matrix,
        k=k,
        tol=tol,
        v0=_start(diagonal, seed)[:, None],
        method="PRIMME_DEFAULT_MIN_MATVECS",
        convtest=lambda value, vector, residual: residual <= tol * abs(value),
        **options,
    )
    return _Run(values, vectors, len(calls))


def _counted(diagonal: Vector) -> tuple[LinearOperator, list[None]]:
    calls: list[None] = []

    def product(vector: Vector) -> Vector:
        calls.append(None)
        return diagonal * vector.ravel()

    return LinearOperator((_SIZE, _SIZE), matvec=product, dtype=np.float64), calls


def _start(diagonal: Vector, seed: int) -> Vector:
    """Return the vector from which specop starts with this seed."""
    import specop
    from specop.arrays import probes

    like = specop.DiagonalOperator(diagonal)
    return probes.normal(like.backend, like.domain, seed, 0)


def _excess(ours: Sequence[_Run], theirs: Sequence[_Run]) -> int:
    return max(our.products - their.products for our, their in zip(ours, theirs, strict=True))


def _residual(diagonal: Vector, run: _Run) -> float:
    lengths = np.linalg.norm(diagonal[:, None] * run.vectors - run.vectors * run.values, axis=0)
    return float(np.max(lengths / np.abs(run.values)))


def _wrong(values: Vector, exact: Vector, tol: float) -> int:
    return int(np.sum(np.abs(np.sort(values) - exact) > tol * np.abs(exact)))
