"""ShermanMorrison against the recurrence that gives it its name: time, error and peak memory."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from overhead import peak_from_here
from tables import Row, print_table

_DAMPING = 1e-3
_ROWS, _ENTRIES = 1000, 1_000_000
_METHODS = ("recurrence", "specop", "specop, float16", "specop, on the host")


def compare_inverses(frameworks: tuple[str, ...] = ("torch", "numpy")) -> list[Row]:
    """Invert damping*I + (1/m) sum g g' for 1,000 rows of a million float32 entries, and print a table.

    Returns
    -------
    list of dict
        A row for each framework and method, measured in a process of its own: seconds until the first product can be
        made, seconds of a product, both together over those of specop, the residual of a product, and what memory grew
        by beyond the rows, over the size of the rows.
    """
    rows: list[Row] = []
    for framework in frameworks:
        measured = {method: _in_child(framework, method) for method in _METHODS}
        ours = measured["specop"]["prepared"] + measured["specop"]["product"]
        for method, found in measured.items():
            both = found["prepared"] + found["product"]
            rows.append({"framework": framework, "method": method, **found, "x": both / ours})
    print_table(f"inverse from {_ROWS:,} rows of {_ENTRIES:,} float32 entries, damping {_DAMPING:g}", rows)
    return rows


def recurrence(rows: Any) -> Callable[[Any], Any]:
    """Return the product with the inverse by the recurrence of Sherman and Morrison, row after row.

    The lines work on NumPy arrays and torch tensors alike; each takes two matrix-vector products with the rows so far.
    """
    m = len(rows)
    solved, denominators = rows * 0, rows[:, 0] * 0
    for i in range(m):
        solved[i] = rows[i] / _DAMPING
        if i:
            solved[i] -= (solved[:i] @ rows[i] / denominators[:i]) @ solved[:i]
        denominators[i] = m + rows[i] @ solved[i]
    return lambda x: x / _DAMPING - (solved @ x / denominators) @ solved


def specop_inverse(method: str) -> Callable[[Any], Callable[[Any], Any]]:
    """Return what makes a product with the inverse of rows."""
    import specop

    options = {"specop, float16": {"half": True}, "specop, on the host": {"store": "host"}}.get(method, {})

    def prepare(rows: Any) -> Callable[[Any], Any]:
        inverse = specop.ShermanMorrison(damping=_DAMPING, rows=rows, **options).operator()
        return lambda x: inverse @ x

    return prepare


def _in_child(framework: str, method: str) -> dict[str, float]:
    command = [sys.executable, __file__, framework, method, str(_ROWS), str(_ENTRIES)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def _child(framework: str, method: str, m: int, n: int) -> None:
    from run import find_specop

    find_specop()
    prepare = recurrence if method == "recurrence" else specop_inverse(method)
    convert = torch.from_numpy if framework == "torch" else np.asarray
    rng = np.random.default_rng(0)
    host = rng.random((m, n), dtype=np.float32)
    host -= np.float32(0.4)
    host *= np.float32(2e-3)  # rows of length 0.6, as gradients are
    x = rng.standard_normal(n, dtype=np.float32)
    prepare(convert(host[:2, :2000]))(convert(x[:2000]))  # untimed: whatever a process does once
    rows, vector = convert(host), convert(x)
    before, peak = peak_from_here()(), peak_from_here()

    started = time.perf_counter()
    product = prepare(rows)
    prepared = time.perf_counter() - started
    started = time.perf_counter()
    y = product(vector)
    seconds = time.perf_counter() - started
    grown = (peak() - before) * 1e6 / host.nbytes
    print(
        json.dumps(
            {"prepared": prepared, "product": seconds, "residual": _residual(host, np.asarray(y), x), "grown": grown}
        )
    )


def _residual(rows: NDArray[np.float32], y: NDArray[np.float32], x: NDArray[np.float32]) -> float:
    """Return |F y - x| / |x|, computed in float64."""
    image = _DAMPING * y.astype(np.float64)
    for row in rows:
        wide = row.astype(np.float64)
        image += wide * (wide @ y / len(rows))
    return float(np.linalg.norm(image - x) / np.linalg.norm(x))


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
