"""What a part of the data tells of the Hessian on all of it: time, passes and coverage, beside the same on all data.

python part.py cnn --samples 8192 --runs 20 --rtol 0.025
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


def main() -> None:
    """Print a line for each quantity."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rtol", type=float, default=0.025, help="standard error: 0.025 is 5 percent at 95 percent")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--products", type=int, default=200, help="with all data, for the trace that counts as true")
    chosen = parser.parse_args()
    problem = RECIPES[chosen.name]().trained(epochs=_EPOCHS[chosen.name], samples=256)
    objective = _objective(problem, chosen.samples, chosen.batch)
    matrix = objective.hessian()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specop.errors.ConvergenceWarning)
        _compare(
            "trace",
            lambda: specop.trace(matrix, max_matvecs=chosen.products),
            lambda: specop.trace(matrix, rtol=chosen.rtol),
            lambda seed: specop.trace(matrix, rtol=chosen.rtol, data="part", seed=seed),
            chosen.runs,
        )
        _compare(
            "largest eigenvalue",
            lambda: specop.spectral_norm(matrix, tol=1e-4),
            lambda: specop.spectral_norm(matrix, tol=0.05),
            lambda seed: specop.spectral_norm(
                matrix, rtol=chosen.rtol, tol=0.05, confidence=0.95, data="part", seed=seed
            ),
            chosen.runs,
        )


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


def _compare(
    name: str, exact: Callable[[], Any], whole: Callable[[], Any], part: Callable[[int], Any], runs: int
) -> None:
    truth = exact()
    started = time.process_time()
    same = whole()
    seconds = time.process_time() - started
    print(
        f"{name}: {truth.estimate:.5g} +- {truth.standard_error:.2g}; all data {same.matvecs} products, {seconds:.1f} s"
    )
    found, taken = [], []
    for seed in range(runs):
        started = time.process_time()
        found.append(part(seed))
        taken.append(time.process_time() - started)
    # The truth has an error of its own where probes estimate it.
    covered = sum(one.interval[0] <= truth.estimate <= one.interval[1] for one in found)
    print(
        f"  part: {np.mean([one.samples_used for one in found]):.0f} of {found[0].samples} samples, "
        f"{np.mean([one.matvecs for one in found]):.1f} products (rounded up), {np.mean(taken):.1f} s "
        f"({np.mean(taken) / seconds:.2f} of it); {sum(one.converged for one in found)} of {runs} met the goal, "
        f"{covered} of {runs} intervals cover; error {np.std([one.estimate for one in found]) / truth.estimate:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
