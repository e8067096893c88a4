"""Count the eigenvalues that lie outside of their bounds, on matrices whose eigenvalues are multiple.

    python tests/benchmarks/copies.py --runs 20000

Laplacians of cycles and tori, copies of a path, and circulant matrices; each run draws a matrix of 20 to 300 rows, an
end of the spectrum, 2 to 8 eigenvalues, a tolerance from 1e-2 to 1e-8 and a seed. A bound holds where it covers the
distance to the eigenvalue of the same number, copies counted; the check for missed copies promises that with its
confidence.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

import specop


def cycle(n):
    """Return the Laplacian of a cycle: eigenvalues 2 - 2 cos(2 pi j / n), each twice but for the outermost."""
    return 2 * np.eye(n) - np.roll(np.eye(n), 1, 0) - np.roll(np.eye(n), -1, 0)


def path(n):
    """Return the Laplacian of a path with both ends fixed: eigenvalues 2 - 2 cos(pi j / (n + 1))."""
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


def torus(a, b):
    """Return the Laplacian of a product of cycles: eigenvalues up to eight times."""
    return np.kron(cycle(a), np.eye(b)) + np.kron(np.eye(a), cycle(b))


def circulant(n, rng):
    """Return a symmetric circulant matrix of random entries near the diagonal."""
    row = np.zeros(n)
    for j in range(1, rng.integers(2, 6)):
        row[[j % n, -j % n]] += rng.normal()
    return np.array([np.roll(row, i) for i in range(n)])


FAMILIES = {
    "cycle": lambda n, rng: cycle(n),
    "two paths": lambda n, rng: np.kron(np.eye(2), path(n // 2)),
    "three paths": lambda n, rng: np.kron(np.eye(3), path(n // 3)),
    "circulant": circulant,
    "torus": lambda n, rng: torus(a := int(rng.integers(3, max(4, int(n**0.5)) + 1)), max(3, n // a)),
}


@dataclass
class Run:
    """One call of eigsh and what came of it."""

    family: str
    arguments: dict
    n: int
    outside: int
    is_closed: bool
    products: int

    @classmethod
    def drawn(cls, number, seed):
        """Draw a run and carry it out."""
        rng = np.random.default_rng([seed, number])
        family = list(FAMILIES)[number % len(FAMILIES)]
        A = FAMILIES[family](int(rng.integers(20, 301)), rng)
        arguments = {
            "k": int(rng.integers(2, 9)),
            "which": ("LA", "SA")[rng.integers(2)],
            "tol": 10.0 ** -rng.integers(2, 9),
            "seed": int(rng.integers(1000)),
        }
        exact = np.linalg.eigvalsh(A)
        wanted = exact[-arguments["k"] :] if arguments["which"] == "LA" else exact[: arguments["k"]]
        found = specop.eigsh(A, max_matvecs=10 * len(A), **arguments)
        assert found.converged, (family, len(A), arguments)
        rounding = 1e-13 * np.abs(exact).max()
        outside = int((np.abs(found.eigenvalues - wanted) > found.bounds + rounding).sum())
        # From one vector a Krylov space has no more dimensions than there are different eigenvalues.
        different = 1 + int((np.diff(exact) > 100 * rounding).sum())
        return cls(family, arguments, len(A), outside, found.matvecs - found.check_matvecs >= different, found.matvecs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print every run with an eigenvalue outside")
    arguments = parser.parse_args()
    started, groups = time.perf_counter(), defaultdict(list)
    for number in range(arguments.first, arguments.first + arguments.runs):
        run = Run.drawn(number, arguments.seed)
        groups[run.family].append(run)
        groups["all"].append(run)
        if run.is_closed:
            groups["closed spaces"].append(run)
        if number % 100 == 99:
            print(number + 1, f"{time.perf_counter() - started:.0f} s", flush=True)
        if arguments.verbose and run.outside:
            print(number, run, flush=True)
    print("| matrices | runs | with an eigenvalue outside | eigenvalues | outside | products for each row |")
    print("|---|---|---|---|---|---|")
    for name, runs in groups.items():
        wrong, eigenvalues = sum(run.outside > 0 for run in runs), sum(run.arguments["k"] for run in runs)
        products = np.mean([run.products / run.n for run in runs])
        outside = sum(run.outside for run in runs)
        print(f"| {name} | {len(runs)} | {wrong} | {eigenvalues} | {outside} | {products:.2f} |")
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
