"""eigsh where products cost next to nothing, on tridiagonal SciPy matrices, beside ARPACK: what all the rest takes.

Processor time of both, in pairs that alternate in one process, each pair from another start vector.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from tables import Row, print_table

_SIZE = 20_000
_TOLERANCE = 1e-3
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

Vector = NDArray[np.float64]


def compare_cheap_products(pairs: int) -> list[Row]:
    """Time both methods in processes of their own, with one and two BLAS threads, and print a table.

    Parameters
    ----------
    pairs : int
        How often each of them is timed in a process, from as many start vectors.

    Returns
    -------
    list of dict
        A row for each matrix, number of eigenvalues and number of threads. "x" is the median over all pairs of the
        processor time of specop in units of ARPACK's, "x of first" the same of the first call in a process, imports
        apart; "outside" counts eigenvalues of specop that lie outside of their bounds, "missed" those of ARPACK that
        are another eigenvalue than the one of their number.
    """
    rows: list[Row] = []
    for threads in (1, 2):
        for name in MATRICES:
            for k in (10, 100):
                rows.append({"threads": threads, "matrix": name, "k": k, **_in_child(name, k, pairs, threads)})
    print_table(f"tridiagonal matrices with {_SIZE:,} rows, tol = {_TOLERANCE:g}, {pairs} pairs", rows)
    return rows


def laplacian() -> tuple[Vector, Vector]:
    """Eigenvalues 2 - 2 cos(pi j / (n + 1))."""
    return np.full(_SIZE, 2.0), np.full(_SIZE - 1, -1.0)


def slope() -> tuple[Vector, Vector]:
    """A diagonal that rises evenly: the largest eigenvalues are those of the last rows."""
    return np.linspace(2.0, 5.0, _SIZE), np.full(_SIZE - 1, -1.0)


def random() -> tuple[Vector, Vector]:
    """Random entries on the diagonal: eigenvectors are localized."""
    return np.random.default_rng(0).uniform(0.0, 10.0, _SIZE), np.full(_SIZE - 1, -1.0)


def both() -> tuple[Vector, Vector]:
    """Random entries on the diagonal and beside it."""
    rng = np.random.default_rng(1)
    return rng.normal(size=_SIZE) + 5.0, rng.normal(size=_SIZE - 1)


def graded() -> tuple[Vector, Vector]:
    """Entries that fall by twelve orders of magnitude."""
    diagonal = np.geomspace(1.0, 1e-12, _SIZE)
    return diagonal, 0.3 * np.sqrt(diagonal[1:] * diagonal[:-1])


MATRICES: dict[str, Callable[[], tuple[Vector, Vector]]] = {
    "laplacian": laplacian,
    "slope": slope,
    "random": random,
    "both": both,
    "graded": graded,
}


def _in_child(name: str, k: int, pairs: int, threads: int) -> Row:
    # The path too, because specop may be found in this checkout only.
    environment = os.environ | dict.fromkeys(_THREADS, str(threads)) | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def child(task: str) -> dict[str, Any]:
        command = [sys.executable, __file__, name, str(k), str(pairs), task]
        return json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)

    first = {task: child(task)["seconds"] for task in ("specop", "arpack")}
    return {**child("pairs"), "x of first": first["specop"] / first["arpack"]}


def _child(name: str, k: int, pairs: int, task: str) -> dict[str, Any]:
    import specop
    from specop.arrays import probes

    like = specop.DiagonalOperator(np.zeros(_SIZE))
    # Those from which specop starts with these seeds.
    starts = [probes.normal(like.backend, like.domain, seed, 0) for seed in range(pairs)]
    diagonal, beside = MATRICES[name]()
    matrix = scipy.sparse.diags([diagonal, beside, beside], [0, 1, -1]).tocsr()
    methods: dict[str, Callable[[int], Any]] = {
        "specop": lambda seed: specop.eigsh(matrix, k=k, tol=_TOLERANCE, seed=seed),
        "arpack": lambda seed: eigsh(matrix, k=k, tol=_TOLERANCE, v0=starts[seed]),
    }
    if task != "pairs":
        return {"seconds": _timed(lambda: methods[task](0))[0]}
    exact = scipy.linalg.eigvalsh_tridiagonal(diagonal, beside, select="i", select_range=(_SIZE - k, _SIZE - 1))
    for method in methods.values():
        method(0)  # untimed: whatever a process does once
    times: dict[str, list[float]] = {task: [] for task in methods}
    products: dict[str, list[int]] = {task: [] for task in methods}
    outside = missed = 0
    for seed in range(pairs):
        for task in sorted(methods, reverse=bool(seed % 2)):
            seconds, found = _timed(lambda task=task, seed=seed: methods[task](seed))
            times[task].append(seconds)
            if task == "specop":
                products[task].append(found.matvecs)
                outside += int((np.abs(found.eigenvalues - exact) > found.bounds).sum())
            else:
                missed = max(missed, int((np.abs(found[0] - exact) > 2 * _TOLERANCE * np.abs(exact)).sum()))
        products["arpack"].append(_products(matrix, k, starts[seed]))
    ratios = [ours / theirs for ours, theirs in zip(times["specop"], times["arpack"], strict=True)]
    return {
        "specop, ms": 1e3 * statistics.median(times["specop"]),
        "products": int(statistics.median(products["specop"])),
        "ARPACK, ms": 1e3 * statistics.median(times["arpack"]),
        "its products": int(statistics.median(products["arpack"])),
        "outside": outside,
        "missed": missed,
        "x": statistics.median(ratios),
    }


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    found = call()
    return time.process_time() - started, found


def _products(matrix: Any, k: int, start: Vector) -> int:
    calls: list[None] = []

    def product(vector: Vector) -> Vector:
        calls.append(None)
        return matrix @ vector.ravel()

    counted = LinearOperator(matrix.shape, matvec=product, dtype=np.float64)
    eigsh(counted, k=k, tol=_TOLERANCE, v0=start)
    return len(calls)


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
