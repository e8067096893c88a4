"""What a part of the data tells of the Hessian on all of it: time, passes and coverage, beside the same on all data.

python part.py wide_deep
python part.py cnn --samples 20000 --runs 100 --rtol 0.01
python part.py transformer --peers

Times are processor time and hold the forward pass that sorts the samples. The trace on all data is stopped after some
products where it has not met the goal, and its time is then that for the goal: errors fall with the root of products.
Nobody knows the true trace: intervals are held against the mean of all runs on parts, which is in turn held against all
data.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import peers
import specop
from derivatives import batchwise_products
from models import RECIPES, Problem

_EPOCHS = {"cnn": 4, "transformer": 4, "wide_deep": 4}
# All training data: images, sequences of 64 characters, rows.
_SAMPLES = {"cnn": 20_000, "transformer": 9_375, "wide_deep": 48_000}


def main() -> None:
    """Print a line for each quantity and each way to find it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(_SAMPLES))
    parser.add_argument("--samples", type=int, help="that it is trained on; sequences for the transformer")
    parser.add_argument("--runs", type=int, default=10, help="on parts, each with a seed of its own")
    parser.add_argument("--rtol", type=float, default=0.025, help="standard error: 0.025 is 5 percent at 95 percent")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--products", type=int, default=40, help="with all data, for the trace")
    parser.add_argument("--peers", action="store_true", help="run the peers on all data, too")
    chosen = parser.parse_args()
    recipe = RECIPES[chosen.name](chosen.samples or _SAMPLES[chosen.name])
    problem = recipe.trained(epochs=_EPOCHS[chosen.name], samples=256)
    batches = list(zip(recipe.inputs.split(chosen.batch), recipe.targets.split(chosen.batch), strict=True))
    matrix = specop.objective(problem.model, problem.criterion, batches).hessian()
    print(f"{chosen.name}: {problem.size:,} parameters, {matrix.samples:,} samples, standard error {chosen.rtol:g}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specop.errors.ConvergenceWarning)
        trace, found = _trace(matrix, chosen.rtol, chosen.runs, chosen.products)
        largest, taken = _largest(matrix, chosen.rtol, chosen.runs)
    if chosen.peers:
        needed = _products_of_random_vectors(matrix, chosen.rtol * abs(trace))
        _peers(replace(problem, batches=batches), largest, taken, found, needed)


def _trace(matrix: Any, rtol: float, runs: int, products: int) -> tuple[float, float]:
    """Return the trace, and the time of a run on a part."""
    whole, seconds = _timed(lambda: specop.trace(matrix, rtol=rtol, max_matvecs=products))
    needed = seconds * max(1.0, whole.standard_error / (rtol * abs(whole.estimate))) ** 2
    print(
        f"trace, all data: {whole.estimate:.5g} +- {whole.standard_error:.2g} by {whole.matvecs} products in "
        f"{seconds:.1f} s; the goal takes {'about ' * (not whole.converged)}{needed:.0f} s",
        flush=True,
    )
    found, taken = _runs(lambda seed: specop.trace(matrix, rtol=rtol, data="part", seed=seed), runs)
    mean = float(np.mean([one.estimate for one in found]))
    error = float(np.std([one.estimate for one in found])) / max(1, runs - 1) ** 0.5
    apart = abs(mean - whole.estimate) / float(np.hypot(error, whole.standard_error))
    print(f"  runs on parts have the mean {mean:.5g} +- {error:.2g}, {apart:.1f} standard errors from all data")
    _report(found, [one.interval for one in found], [one.estimate for one in found], mean, taken, needed)
    return mean, float(np.mean(taken))


def _largest(matrix: Any, rtol: float, runs: int) -> tuple[float, float]:
    """Return the largest eigenvalue, and the time of a run on a part."""
    truth, _ = _timed(lambda: specop.eigsh(matrix, k=1, which="LA", tol=1e-4))
    same, seconds = _timed(lambda: specop.eigsh(matrix, k=1, which="LA", tol=0.05))
    largest = float(truth.eigenvalues[0])
    print(f"largest eigenvalue, all data: {largest:.6g}; with tol=0.05 {same.matvecs} products in {seconds:.1f} s")

    def part(seed: int) -> Any:
        return specop.eigsh(matrix, k=1, which="LA", tol=0.05, rtol=rtol, confidence=0.95, data="part", seed=seed)

    found, taken = _runs(part, runs)
    intervals, values = [one.intervals[0] for one in found], [one.eigenvalues[0] for one in found]
    _report(found, intervals, values, largest, taken, seconds)
    return largest, float(np.mean(taken))


def _products_of_random_vectors(matrix: Any, error: float) -> float:
    """Return how many products a mean over random vectors alone takes for that standard error of the trace."""
    few = 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specop.errors.ConvergenceWarning)
        seen = specop.trace(matrix, method="hutchinson", max_matvecs=few)
    return few * (seen.standard_error / error) ** 2


def _peers(problem: Problem, largest: float, eigenvalue_seconds: float, trace_seconds: float, needed: float) -> None:
    def power_iteration(problem: Problem, k: int, tol: float) -> Any:
        return peers.deflated_power_iteration(problem, k, tol, batchwise_products)

    runs: dict[str, tuple[peers.Solve, float]] = {
        "PyHessian's algorithm": (power_iteration, 1e-2),
        "hessian-eigenthings": (peers.hessian_eigenthings_lanczos, peers.LANCZOS_STEPS[0]),
        "curvlinops with SciPy": (peers.curvlinops_scipy, 1e-1),
    }
    for name, (solve, setting) in runs.items():
        (values, products), seconds = _timed(lambda solve=solve, setting=setting: solve(problem, 1, setting))
        trace = needed * seconds / products
        print(
            f"{name}: largest eigenvalue by {products} products in {seconds:.0f} s, {seconds / eigenvalue_seconds:.1f} "
            f"of a part's time, error {abs(values[-1] / largest - 1.0):.2g}; a trace takes {needed:.0f} products "
            f"of random vectors and {trace:.0f} s, {trace / trace_seconds:.0f} of a part's time",
            flush=True,
        )


def _report(
    found: list[Any], intervals: list[Any], values: list[float], truth: float, taken: list[float], whole: float
) -> None:
    covered = sum(low <= truth <= high for low, high in intervals)
    print(
        f"  part: {np.mean([one.samples_used for one in found]):.0f} samples, "
        f"{np.mean([one.matvecs for one in found]):.1f} passes (rounded up), {np.mean(taken):.1f} s, "
        f"{np.mean(taken) / whole:.3f} of all data's; {sum(one.converged for one in found)} of {len(found)} met the "
        f"goal, {covered} of {len(found)} intervals cover; root mean square error "
        f"{np.sqrt(np.mean((np.array(values) / truth - 1.0) ** 2)):.3f}",
        flush=True,
    )


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    found = call()
    return found, time.process_time() - started


def _runs(call: Callable[[int], Any], runs: int) -> tuple[list[Any], list[float]]:
    pairs = [_timed(lambda seed=seed: call(seed)) for seed in range(runs)]
    return [found for found, _ in pairs], [seconds for _, seconds in pairs]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
