"""Top eigenvalues of trained models: seconds, products and error of every peer."""

import copy
import gc
import importlib.util
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from derivatives import retained_operator
from models import PROBLEMS, Batches, Problem
from peers import PEERS, Eigenvalues, Peer, scipy_eigsh
from tables import Row, print_table, ratio

GOAL = 1e-4
BASELINE = "specop.eigsh"


@dataclass
class _Entry:
    """A peer at the setting that it was calibrated to, and what it measured."""

    peer: Peer
    setting: float
    seconds: list[float]
    products: int = 0
    error: float = float("nan")


def compare_eigenvalues(names: Sequence[str], k: int, repeats: int) -> list[Row]:
    """Time every peer on every model and print a table for each.

    A peer with several settings is first calibrated, untimed, to the cheapest one whose largest relative error is
    at most 1e-4. Then each repeat runs every peer once, set-up included, beginning with another one each time.

    Parameters
    ----------
    names : sequence of str
        Models, of `models.PROBLEMS`.
    k : int
        Number of eigenvalues.
    repeats : int
        How often everything is timed.

    Returns
    -------
    list of dict
        One row for each model and peer.
    """
    rows: list[Row] = []
    for name in names:
        problem = PROBLEMS[name]()
        reference = reference_eigenvalues(problem, k)
        print("reference: " + " ".join(f"{value:.6g}" for value in reference))
        entries = [_calibrated(peer, problem, k, reference) for peer in PEERS if _is_installed(peer)]
        for repeat in range(repeats):
            turn = repeat % len(entries)
            for entry in entries[turn:] + entries[:turn]:
                _measure(entry, problem, k, reference)
        table = _rows(name, entries)
        print_table(f"{name}: {k} largest eigenvalues, n = {problem.size:,}, median of {repeats}", table)
        rows += table
    return rows


def reference_eigenvalues(problem: Problem, k: int) -> Eigenvalues:
    """Return the eigenvalues of the same model in float64, to about eight digits.

    Parameters
    ----------
    problem : Problem
    k : int

    Returns
    -------
    ndarray of shape (k,)
        Ascending.
    """
    return scipy_eigsh(retained_operator(in_double_precision(problem)), k, 1e-8)[0]


def in_double_precision(problem: Problem) -> Problem:
    """Return a copy of a problem with float64 parameters and data."""
    batches: Batches = [
        tuple(part.double() if part.is_floating_point() else part for part in batch)  # type: ignore[misc]
        for batch in problem.batches
    ]
    return replace(problem, model=copy.deepcopy(problem.model).double(), batches=batches)


def _calibrated(peer: Peer, problem: Problem, k: int, reference: Eigenvalues) -> _Entry:
    for setting in peer.settings:
        entry = _Entry(peer, setting, [])
        _measure(entry, problem, k, reference)
        if entry.error <= GOAL:
            break
    entry.seconds.clear()
    return entry


def _measure(entry: _Entry, problem: Problem, k: int, reference: Eigenvalues) -> None:
    gc.collect()
    started = time.perf_counter()
    values, entry.products = entry.peer.solve(problem, k, entry.setting)
    entry.seconds.append(time.perf_counter() - started)
    entry.error = float(np.max(np.abs(values - reference) / np.abs(reference)))


def _is_installed(peer: Peer) -> bool:
    if peer.package is None or importlib.util.find_spec(peer.package) is not None:
        return True
    print(f"notice: {peer.name} is left out, {peer.package} is not installed")
    return False


def _rows(name: str, entries: Sequence[_Entry]) -> list[Row]:
    medians = {entry.peer.name: statistics.median(entry.seconds) for entry in entries}
    return [
        {
            "model": name,
            "method": entry.peer.name,
            "setting": entry.setting,
            "seconds": medians[entry.peer.name],
            "products": entry.products,
            "error": entry.error,
            "times specop": ratio(medians[entry.peer.name], medians.get(BASELINE)),
        }
        for entry in entries
    ]
