"""Top eigenvalues of the same trained models in JAX and TensorFlow, with and without the time to compile."""

import gc
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from eigenvalues import BASELINE, GOAL, reference_eigenvalues
from models import PROBLEMS
from peers import TOLERANCES, Eigenvalues
from ports import Port, Task, port
from tables import Row, print_table, ratio

Solve = Callable[[int, float], tuple[Eigenvalues, int]]


@dataclass(frozen=True)
class Method:
    """A way to eigenvalues: `prepare` takes a model and returns a function of k and the setting."""

    name: str
    prepare: Callable[[Port], Solve]
    settings: tuple[float, ...]


@dataclass
class _Entry:
    method: Method
    setting: float
    solve: Solve
    first: float = float("nan")
    again: list[float] = field(default_factory=list)
    products: int = 0
    error: float = float("nan")


def compare_in(framework: str, names: Sequence[str], k: int, repeats: int) -> list[Row]:
    """Time every method of a framework on every model and print a table for each.

    A method is calibrated, untimed, to the cheapest setting with an error of at most 1e-4. "first" is one call with
    nothing compiled yet, "again" the median of later ones; the difference is what tracing and compiling took.

    Parameters
    ----------
    framework : {"jax", "tensorflow"}
    names : sequence of str
        Models, of `models.PROBLEMS`.
    k : int
        Number of eigenvalues.
    repeats : int
        How often compiled functions are timed.

    Returns
    -------
    list of dict
        One row for each model and method.
    """
    missing = [package for package in _PACKAGES[framework] if importlib.util.find_spec(package) is None]
    if missing:
        print(f"notice: {framework} is left out, {', '.join(missing)} not installed")
        return []
    methods: list[Method] = getattr(importlib.import_module(f"{framework}_peers"), f"{framework}_methods")()
    rows: list[Row] = []
    for name in names:
        problem = PROBLEMS[name]()
        reference = reference_eigenvalues(problem, k)
        ported = port(problem)
        entries = [_calibrated(method, ported, k, reference) for method in methods]
        for entry in entries:
            # A method's compiled functions are those of its own `prepare`.
            started = time.perf_counter()
            entry.solve = entry.method.prepare(ported)
            entry.solve(k, entry.setting)
            entry.first = time.perf_counter() - started
            entry.again = [_timed(entry, k, reference) for _ in range(repeats)]
        table = _rows(framework, name, entries)
        print_table(f"{framework}, {name}: {k} largest eigenvalues, n = {problem.size:,}", table)
        rows += table
    return rows


def specop_methods(make: Callable[[Port], Task]) -> list[Method]:
    """Return this library with and without its check for missed copies.

    Parameters
    ----------
    make : callable
        Makes a ported model.
    """

    def method(name: str, check: bool) -> Method:
        def prepare(ported: Port) -> Solve:
            import specop

            task = make(ported)
            objective = specop.objective(task.loss, params=task.params, data=task.batch)

            def solve(k: int, tol: float) -> tuple[Eigenvalues, int]:
                # What was compiled stays, as it does for the others; linearizations are made anew.
                objective.release()
                result = specop.eigsh(objective.hessian(), k=k, tol=tol, check_multiplicity=check)
                return result.eigenvalues, result.matvecs

            return solve

        return Method(name, prepare, TOLERANCES)

    return [method(BASELINE, True), method(f"{BASELINE}, unchecked", False)]


_PACKAGES = {"jax": ("jax", "matfree"), "tensorflow": ("tensorflow",)}


def _calibrated(method: Method, ported: Port, k: int, reference: Eigenvalues) -> _Entry:
    entry = _Entry(method, method.settings[0], method.prepare(ported))
    for entry.setting in method.settings:
        _timed(entry, k, reference)
        if entry.error <= GOAL:
            break
    return entry


def _timed(entry: _Entry, k: int, reference: Eigenvalues) -> float:
    gc.collect()
    started = time.perf_counter()
    values, entry.products = entry.solve(k, entry.setting)
    seconds = time.perf_counter() - started
    entry.error = float(np.max(np.abs(values - reference) / np.abs(reference)))
    return seconds


def _rows(framework: str, name: str, entries: Sequence[_Entry]) -> list[Row]:
    own = entries[0]
    return [
        {
            "framework": framework,
            "model": name,
            "method": entry.method.name,
            "setting": entry.setting,
            "products": entry.products,
            "error": entry.error,
            "again": statistics.median(entry.again),
            "first": entry.first,
            "compile": entry.first - statistics.median(entry.again),
            "times specop": ratio(statistics.median(entry.again), statistics.median(own.again)),
            "times specop, first": ratio(entry.first, own.first),
        }
        for entry in entries
    ]
