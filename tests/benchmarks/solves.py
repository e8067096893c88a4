"""Damped solves with trained models beside curvlinops: seconds at the same true residual."""

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigenvalues import in_double_precision
from models import Problem, cnn, mlp
from peers import count_calls
from tables import Row, print_table, ratio

# Relative residual in float64 that every method is calibrated to.
GOAL = 1e-4
TOLERANCES = (1e-4, 5e-5, 2e-5, 1e-5, 3e-6, 1e-6)
BASELINE = "specop.solve"

Solution = tuple[Tensor, int]
Solve = Callable[[Problem, str, float, Tensor, float], Solution]


@dataclass
class _Entry:
    name: str
    solve: Solve
    setting: float
    seconds: list[float]
    products: int = 0
    residual: float = float("nan")


def compare_solves(repeats: int) -> list[Row]:
    """Time damped solves with the Gauss-Newton matrix and the Hessian and print a table for each.

    The right-hand side is the gradient of 32 samples. The Hessian's damping is twice its most negative eigenvalue. Each
    method is calibrated, untimed, to the largest tolerance at which the residual, computed in float64, is at most 1e-4
    of the right-hand side. Then each repeat runs all of them once, set-up included, beginning with another one.

    Parameters
    ----------
    repeats : int

    Returns
    -------
    list of dict
        One row for each model, matrix and method.
    """
    rows: list[Row] = []
    for problem in (cnn(), mlp()):
        b = partial_gradient(problem, 32)
        for matrix, damping in (("ggn", 1e-2), ("ggn", 1e-3), ("hessian", hessian_damping(problem))):
            entries = [
                _calibrated(name, solve, problem, matrix, damping, b)
                for name, solve in METHODS.items()
                if not name.startswith("curvlinops") or importlib.util.find_spec("curvlinops") is not None
            ]
            for repeat in range(repeats):
                turn = repeat % len(entries)
                for entry in entries[turn:] + entries[:turn]:
                    _measure(entry, problem, matrix, damping, b)
            table = _rows(problem, matrix, damping, entries)
            print_table(f"{problem.name}: ({matrix} + {damping:.3g} I) x = b, median of {repeats}", table)
            rows += table
    return rows


def specop_solve(problem: Problem, matrix: str, damping: float, b: Tensor, rtol: float) -> Solution:
    """Run this library as its README shows."""
    return _specop(problem, matrix, damping, b, rtol, "auto")


def specop_cg(problem: Problem, matrix: str, damping: float, b: Tensor, rtol: float) -> Solution:
    """Run this library's conjugate gradients, which hold no basis."""
    return _specop(problem, matrix, damping, b, rtol, "cg")


def curvlinops_cg(problem: Problem, matrix: str, damping: float, b: Tensor, tolerance: float) -> Solution:
    """Run conjugate gradients of curvlinops, without its operators' check that costs several passes."""
    from curvlinops import CGInverseLinearOperator, GGNLinearOperator, HessianLinearOperator
    from curvlinops.examples import IdentityLinearOperator

    kind = GGNLinearOperator if matrix == "ggn" else HessianLinearOperator
    parameters = list(problem.model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        operator = kind(
            problem.model,
            problem.criterion,
            parameters,
            problem.batches,
            check_deterministic=False,
            num_data=sum(len(targets) for _, targets in problem.batches),
        )
        counted = count_calls(operator, "_matmat")
        identity = IdentityLinearOperator([p.shape for p in parameters], b.device, b.dtype)
        inverse = CGInverseLinearOperator(operator + damping * identity, tolerance=tolerance, max_iter=5000, eps=1e-30)
        return inverse @ b, counted()


METHODS: dict[str, Solve] = {
    BASELINE: specop_solve,
    "specop.solve, cg": specop_cg,
    "curvlinops CGInverse": curvlinops_cg,
}


def partial_gradient(problem: Problem, count: int) -> Tensor:
    """Return the gradient of the first samples' mean loss."""
    inputs, targets = problem.batches[0]
    loss = problem.criterion(problem.model(inputs[:count]), targets[:count])
    parts = torch.autograd.grad(loss, list(problem.model.parameters()))
    return torch.cat([part.reshape(-1) for part in parts])


def hessian_damping(problem: Problem) -> float:
    """Return twice the size of the Hessian's most negative eigenvalue."""
    import specop

    hessian = specop.objective(problem.model, problem.criterion, problem.batches).hessian()
    return 2.0 * abs(float(specop.eigsh(hessian, k=1, which="SA", tol=1e-2).eigenvalues[0]))


def true_residual(problem: Problem, matrix: str, damping: float, b: Tensor, x: Tensor) -> float:
    """Return the norm of the residual over that of b, in float64."""
    import specop

    double = in_double_precision(problem)
    objective = specop.objective(double.model, double.criterion, double.batches)
    operator = objective.ggn() if matrix == "ggn" else objective.hessian()
    rest = b.double() - operator @ x.double() - damping * x.double()
    return float(rest.norm() / b.double().norm())


def _specop(problem: Problem, matrix: str, damping: float, b: Tensor, rtol: float, method: str) -> Solution:
    import specop

    objective = specop.objective(problem.model, problem.criterion, problem.batches)
    result = objective.solve(b, matrix=matrix, damping=damping, rtol=rtol, method=method)
    return result.solution, result.matvecs


def _calibrated(name: str, solve: Solve, problem: Problem, matrix: str, damping: float, b: Tensor) -> _Entry:
    for setting in TOLERANCES:
        entry = _Entry(name, solve, setting, [])
        x = _measure(entry, problem, matrix, damping, b)
        entry.residual = true_residual(problem, matrix, damping, b, x)
        if entry.residual <= GOAL:
            break
    entry.seconds.clear()
    return entry


def _measure(entry: _Entry, problem: Problem, matrix: str, damping: float, b: Tensor) -> Tensor:
    gc.collect()
    started = time.perf_counter()
    x, entry.products = entry.solve(problem, matrix, damping, b, entry.setting)
    entry.seconds.append(time.perf_counter() - started)
    return x


def _rows(problem: Problem, matrix: str, damping: float, entries: Sequence[_Entry]) -> list[Row]:
    medians = {entry.name: statistics.median(entry.seconds) for entry in entries}
    return [
        {
            "model": problem.name,
            "matrix": matrix,
            "damping": damping,
            "method": entry.name,
            "setting": entry.setting,
            "seconds": medians[entry.name],
            "products": entry.products,
            "residual": entry.residual,
            "times specop": ratio(medians[entry.name], medians.get(BASELINE)),
        }
        for entry in entries
    ]
