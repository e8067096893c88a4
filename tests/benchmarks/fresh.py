"""The first answer of a process: three questions, each method in a process of its own, imports and set-up included.

    python tests/benchmarks/fresh.py
    python tests/benchmarks/fresh.py --models wide_deep --questions trace,density --repeats 5

Models are trained once. A child loads one, and its clock begins before it imports a library of curvature. Settings of
the ten largest eigenvalues are those that `run.py --only eigenvalues` calibrated to a relative error of 1e-4.
PyHessian's algorithm stops far from that at its own tolerance of 1e-3; "tighter" is the tolerance that comes nearest.
The right number of steps of Lanczos is known from the true answer alone: whoever does not have that doubles the default
of hessian-eigenthings until its own test says that all ten have converged.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import peers
from density import single_probe_density, specop_density
from models import PROBLEMS, Problem
from tables import Row, print_table, ratio

QUESTIONS = ("eigenvalues", "trace", "density")
_K, _PRODUCTS = 10, 99
# Of specop, SciPy, Lanczos by hessian-eigenthings and PyHessian's algorithm, for the ten largest eigenvalues.
_SETTINGS = {
    "cnn": (3e-3, 1e-1, 20, 1e-4),
    "transformer": (3e-3, 3e-3, 35, 1e-4),
    "wide_deep": (1e-2, 1e-2, 30, 1e-5),
}
# A residual at which eigenvalues are right to about 1e-4.
_CONVERGED = 1e-2
# No run takes longer.
_LIMIT = 900.0


def main() -> None:
    """Print a table for each question."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(PROBLEMS))
    parser.add_argument("--questions", default=",".join(QUESTIONS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("FILE", "QUESTION", "METHOD"), help="what a process is to do")
    chosen = parser.parse_args()
    if chosen.child:
        file, question, method = chosen.child
        _run(torch.load(file, weights_only=False), question, method)
        return
    with tempfile.TemporaryDirectory() as folder:
        for question, name in itertools.product(chosen.questions.split(","), chosen.models.split(",")):
            file = Path(folder, f"{name}.pt")
            if not file.exists():
                torch.save(PROBLEMS[name](), file)
            _compare(file, name, question, chosen.repeats)


def _compare(file: Path, name: str, question: str, repeats: int) -> None:
    methods = list(_methods(question))
    found: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    for repeat in range(repeats):
        turn = repeat % len(methods)
        for method in methods[turn:] + methods[:turn]:
            command = [sys.executable, __file__, "--child", str(file), question, method]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LIMIT)
            found[method].append(tuple(json.loads(done.stdout.splitlines()[-1])))
    seconds = {method: statistics.median(taken for taken, _ in pairs) for method, pairs in found.items()}
    rows: list[Row] = [
        {
            "method": method,
            "seconds": seconds[method],
            "value": found[method][0][1],
            "times specop": ratio(seconds[method], seconds["specop"]),
        }
        for method in methods
    ]
    print_table(f"{name}: {question} in a fresh process, median of {repeats}", rows)


def _run(problem: Problem, question: str, method: str) -> None:
    """Print the seconds that a method takes, and its largest eigenvalue, its trace or its largest node."""
    started = time.perf_counter()
    value = _methods(question)[method](problem)
    print(json.dumps([time.perf_counter() - started, value]))


def _methods(question: str) -> dict[str, Callable[[Problem], float]]:
    return {
        "eigenvalues": {
            "specop": lambda problem: _largest(peers.specop_eigsh, problem, 0),
            "PyHessian's algorithm": lambda problem: float(peers.deflated_power_iteration(problem, _K, 1e-3)[0][-1]),
            "PyHessian's algorithm, tighter": lambda problem: _largest(peers.deflated_power_iteration, problem, 3),
            "hessian-eigenthings": lambda problem: _largest(peers.hessian_eigenthings_lanczos, problem, 2),
            "hessian-eigenthings, doubling": _eigenthings_until_converged,
            "curvlinops with SciPy": lambda problem: _largest(peers.curvlinops_scipy, problem, 1),
        },
        "trace": {
            "specop": _specop_trace,
            "hessian-eigenthings": lambda problem: _eigenthings(problem, "trace", num_matvecs=_PRODUCTS).estimate,
            "curvlinops": _curvlinops_trace,
        },
        "density": {
            "specop": lambda problem: float(specop_density(problem, 0)[0].max()),
            "PyHessian's algorithm": lambda problem: float(single_probe_density(problem, 0)[0].max()),
            "hessian-eigenthings": _eigenthings_density,
        },
    }[question]


def _largest(solve: peers.Solve, problem: Problem, place: int) -> float:
    return float(solve(problem, _K, _SETTINGS[problem.name][place])[0][-1])


def _specop_trace(problem: Problem) -> float:
    import specop

    matrix = specop.objective(problem.model, problem.criterion, problem.batches).hessian()
    return specop.trace(matrix, max_matvecs=_PRODUCTS).estimate


def _curvlinops_trace(problem: Problem) -> float:
    from curvlinops import HessianLinearOperator, hutchpp_trace

    with sdpa_kernel(SDPBackend.MATH):
        return float(hutchpp_trace(peers.curvlinops_operator(HessianLinearOperator, problem), _PRODUCTS))


def _eigenthings_until_converged(problem: Problem) -> float:
    steps = 2 * _K
    while True:
        # Without reorthogonalization, its default above 50 steps, it returns copies of the top eigenvalue.
        found = _eigenthings(problem, "lanczos", k=_K, max_iter=steps, tol=_CONVERGED, which="LA", reorthogonalize=True)
        if bool(found.converged.all()):
            return float(found.eigenvalues.max())
        steps *= 2


def _eigenthings_density(problem: Problem) -> float:
    # As many products as PyHessian's algorithm takes; ten runs of eighty steps are the default.
    found = _eigenthings(problem, "spectral_density", num_runs=1, lanczos_steps=100)
    return float(found.raw_eigenvalues.max())


def _eigenthings(problem: Problem, function: str, **settings: Any) -> Any:
    import hessian_eigenthings

    with sdpa_kernel(SDPBackend.MATH):
        operator = peers.eigenthings_operator(problem)
        return getattr(hessian_eigenthings, function)(operator, seed=0, **settings)


if __name__ == "__main__":
    main()
