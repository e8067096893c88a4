"""What a part of the data tells of the Hessian on all of it: time, passes and coverage, beside the same on all data.

python part.py wide_deep
python part.py cnn --samples 20000 --runs 100 --rtol 0.01

Times are processor time and hold the forward pass that sorts the samples. The trace on all data is stopped after some
products, and its time is that for the error that the part has: it falls with the root of the products. Nobody knows the
true trace: intervals are held against the mean of all runs on parts, which is in turn held against all data.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import specop
from datasets import load_census, load_images, load_text
from models import RECIPES, Problem

_EPOCHS = {"cnn": 8, "transformer": 40, "wide_deep": 4}
_CONTEXT = 64
# As many as ten runs and all data take about ten minutes with, on two cores with nothing beside.
_SAMPLES = {"cnn": 8192, "transformer": 2048, "wide_deep": 24_000}


def main() -> None:
    """Print a line for each quantity and each way to find it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(_SAMPLES))
    parser.add_argument("--samples", type=int, help="samples; of the transformer sequences of 64 characters")
    parser.add_argument("--runs", type=int, default=10, help="on parts, each with a seed of its own")
    parser.add_argument("--rtol", type=float, default=0.025, help="standard error: 0.025 is 5 percent at 95 percent")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--products", type=int, default=40, help="with all data, for the trace")
    chosen = parser.parse_args()
    samples = chosen.samples or _SAMPLES[chosen.name]
    problem = RECIPES[chosen.name]().trained(epochs=_EPOCHS[chosen.name], samples=256)
    matrix = _objective(problem, samples, chosen.batch).hessian()
    print(f"{chosen.name}: {problem.size:,} parameters, {matrix.samples:,} samples, standard error {chosen.rtol:g}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specop.errors.ConvergenceWarning)
        _trace(matrix, chosen.rtol, chosen.runs, chosen.products)
        _largest(matrix, chosen.rtol, chosen.runs)


def _trace(matrix: Any, rtol: float, runs: int, products: int) -> None:
    whole, seconds = _timed(lambda: specop.trace(matrix, max_matvecs=products))
    needed = seconds * (whole.standard_error / (rtol * abs(whole.estimate))) ** 2
    print(
        f"trace, all data: {whole.estimate:.5g} +- {whole.standard_error:.2g} by {products} products in "
        f"{seconds:.1f} s; the goal would take about {needed:.0f} s"
    )
    found, taken = _runs(lambda seed: specop.trace(matrix, rtol=rtol, data="part", seed=seed), runs)
    mean = float(np.mean([one.estimate for one in found]))
    error = float(np.std([one.estimate for one in found])) / max(1, runs - 1) ** 0.5
    apart = abs(mean - whole.estimate) / float(np.hypot(error, whole.standard_error))
    print(f"  runs on parts have the mean {mean:.5g} +- {error:.2g}, {apart:.1f} standard errors from all data")
    _report(found, [one.interval for one in found], [one.estimate for one in found], mean, taken, needed)


def _largest(matrix: Any, rtol: float, runs: int) -> None:
    truth, _ = _timed(lambda: specop.eigsh(matrix, k=1, which="LA", tol=1e-4))
    same, seconds = _timed(lambda: specop.eigsh(matrix, k=1, which="LA", tol=0.05))
    largest = float(truth.eigenvalues[0])
    print(f"largest eigenvalue, all data: {largest:.6g}; with tol=0.05 {same.matvecs} products in {seconds:.1f} s")

    def part(seed: int) -> Any:
        return specop.eigsh(matrix, k=1, which="LA", tol=0.05, rtol=rtol, confidence=0.95, data="part", seed=seed)

    found, taken = _runs(part, runs)
    intervals, values = [one.intervals[0] for one in found], [one.eigenvalues[0] for one in found]
    _report(found, intervals, values, largest, taken, seconds)


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


def _objective(problem: Problem, samples: int, batch: int) -> Any:
    if problem.name == "cnn":
        inputs, targets = load_images(samples)
    elif problem.name == "transformer":
        text = load_text()
        samples = min(samples, (len(text) - 1) // _CONTEXT)
        length = samples * _CONTEXT
        inputs, targets = text[:length].view(-1, _CONTEXT), text[1 : length + 1].view(-1, _CONTEXT)
    else:
        inputs, targets, _, _ = load_census(samples)
    data = list(zip(inputs.split(batch), targets.split(batch), strict=True))
    return specop.objective(problem.model, problem.criterion, data)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
