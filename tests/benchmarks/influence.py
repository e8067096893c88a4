"""Influences in logistic regressions beside pydvl: seconds at the same true residual."""

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tables import Row, print_table, ratio

# Relative residual that every method is calibrated to, for the worst test sample.
GOAL = 1e-4
TOLERANCES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
DAMPING = 0.01
BASELINE = "specop.analysis.influence"


@dataclass
class Regression:
    """A fitted logistic regression with its data."""

    name: str
    model: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass
class _Entry:
    name: str
    run: Callable[[Regression, float], tuple[Tensor, Tensor]]
    setting: float
    residual: float
    difference: float = 0.0
    seconds: list[float] = field(default_factory=list)


def compare_influences(repeats: int) -> list[Row]:
    """Time the influence of every training sample on the loss of every test sample, and print a table for each model.

    Each method is calibrated, untimed, to the largest tolerance at which the worst residual of the solves is at most
    1e-4 of its right-hand side. Then each repeat runs all of them once, set-up included, beginning with another one.

    Parameters
    ----------
    repeats : int

    Returns
    -------
    list of dict
        One row for each model and method.
    """
    rows: list[Row] = []
    if importlib.util.find_spec("sklearn") is None:
        print("notice: influence is left out: scikit-learn is absent")
        return rows
    methods = {BASELINE: specop_influence}
    if importlib.util.find_spec("pydvl") is None:
        print("notice: pydvl is absent")
    else:
        methods |= {"pydvl CgInfluence": pydvl_one_by_one, "pydvl CgInfluence, block": pydvl_together}
    for problem in (breast_cancer(), digits()):
        matrix, tests, gradients = dense(problem)
        exact = tests @ torch.linalg.solve(matrix, gradients.T)
        entries = [_calibrated(name, run, problem, matrix, tests, exact) for name, run in methods.items()]
        for repeat in range(repeats):
            turn = repeat % len(entries)
            for entry in entries[turn:] + entries[:turn]:
                gc.collect()
                started = time.perf_counter()
                entry.run(problem, entry.setting)
                entry.seconds.append(time.perf_counter() - started)
        medians = {entry.name: statistics.median(entry.seconds) for entry in entries}
        table: list[Row] = [
            {
                "model": problem.name,
                "method": entry.name,
                "setting": entry.setting,
                "seconds": medians[entry.name],
                "residual": entry.residual,
                "error of scores": entry.difference,
                "times specop": ratio(medians[entry.name], medians[BASELINE]),
            }
            for entry in entries
        ]
        size = f"{len(problem.train[1])} training x {len(problem.test[1])} test samples, {matrix.shape[0]} parameters"
        print_table(f"{problem.name}: {size}, median of {repeats}", table)
        rows += table
    return rows


def specop_influence(problem: Regression, rtol: float) -> tuple[Tensor, Tensor]:
    """Run this library; return scores (test, train), not divided by m, and the residuals of the solves."""
    import specop

    train, test = (specop.objective(problem.model, problem.criterion, part) for part in (problem.train, problem.test))
    found = specop.analysis.influence(train, test, damping=DAMPING, per_sample=True, rtol=rtol)
    return torch.tensor(found.scores.T) * found.samples, torch.tensor(found.residuals)


def pydvl_one_by_one(problem: Regression, rtol: float) -> tuple[Tensor, Tensor]:
    """Run pydvl's conjugate gradients for one test sample after the other."""
    return _pydvl(problem, rtol, simultaneously=False)


def pydvl_together(problem: Regression, rtol: float) -> tuple[Tensor, Tensor]:
    """Run pydvl's conjugate gradients for all test samples together."""
    return _pydvl(problem, rtol, simultaneously=True)


def _pydvl(problem: Regression, rtol: float, *, simultaneously: bool) -> tuple[Tensor, Tensor]:
    from pydvl.influence.torch import CgInfluence
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(*problem.train), batch_size=len(problem.train[1]))
    solver = CgInfluence(
        problem.model,
        problem.criterion,
        regularization=DAMPING,
        rtol=rtol,
        atol=0.0,
        maxiter=5000,
        solve_simultaneously=simultaneously,
    ).fit(loader)
    factors = solver.influence_factors(*problem.test)
    return solver.influences_from_factors(factors, *problem.train), factors.detach()


def breast_cancer() -> Regression:
    """Return a logistic regression with 31 parameters."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    labels = torch.tensor(data.target, dtype=torch.float64)[:, None]
    return _fitted("breast cancer", data.data, labels, 1, F.binary_cross_entropy_with_logits, 143)


def digits() -> Regression:
    """Return a softmax regression with 650 parameters."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return _fitted("digits", data.data, torch.tensor(data.target), 10, F.cross_entropy, 20)


def _fitted(
    name: str,
    features: object,
    labels: Tensor,
    outputs: int,
    criterion: Callable[[Tensor, Tensor], Tensor],
    tests: int,
) -> Regression:
    import specop

    torch.manual_seed(0)
    x = torch.as_tensor(features, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
    order = torch.randperm(len(x))
    train, test = ((x[part], labels[part]) for part in (order[tests:], order[:tests]))
    model = nn.Linear(x.shape[1], outputs).double()
    objective = specop.objective(model, criterion, train)
    model.load_state_dict(specop.analysis.retrain(objective, damping=DAMPING).parameters)
    return Regression(name, model, criterion, train, test)


def dense(problem: Regression) -> tuple[Tensor, Tensor, Tensor]:
    """Return the damped Hessian and the gradients of test and training samples."""
    import specop

    train, test = (specop.objective(problem.model, problem.criterion, part) for part in (problem.train, problem.test))
    matrix = train.hessian().to_dense() + DAMPING * torch.eye(train.n, dtype=torch.float64)
    return matrix, *(torch.cat(list(part.per_sample_gradients())) for part in (test, train))


def _calibrated(
    name: str,
    run: Callable[[Regression, float], tuple[Tensor, Tensor]],
    problem: Regression,
    matrix: Tensor,
    tests: Tensor,
    exact: Tensor,
) -> _Entry:
    for setting in TOLERANCES:
        scores, solved = run(problem, setting)
        lengths = solved if solved.ndim == 1 else (tests - solved @ matrix).norm(dim=1)
        entry = _Entry(name, run, setting, float((lengths / tests.norm(dim=1)).max()))
        entry.difference = float((scores - exact).norm() / exact.norm())
        if entry.residual <= GOAL:
            break
    return entry
