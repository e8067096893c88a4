"""What a monitor refuses: arguments out of range, and histories of other models."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specop.arrays.processes import Processes
from specop.errors import InvalidInputError, check_choice
from specop.objectives.mean import Objective
from specop.results.files import check_folder, npz_path
from specop.results.history import HistoryResult
from specop.results.result import load
from specop.results.structure import Structure
from specop.training._quantities import QUANTITIES, options_of

__all__ = [
    "check_model",
    "check_schedule",
    "check_together",
    "checked_step",
    "checked_what",
    "earlier_history",
    "shared_history",
]


def checked_what(what: Any) -> dict[str, dict[str, Any]]:
    """Return keywords by quantity, or raise InvalidInputError."""
    asked = {what: {}} if isinstance(what, str) else dict(what) if isinstance(what, Mapping) else dict.fromkeys(what)
    if not asked:
        raise InvalidInputError(f"what names nothing to record; choose of {', '.join(QUANTITIES)}.")
    for name, options in asked.items():
        check_choice("each of what", name, QUANTITIES)
        if options is not None and not isinstance(options, Mapping):
            raise InvalidInputError(f"what[{name!r}] must be a dict of keywords, got {options!r}.")
        known = options_of(name)
        unknown = next((key for key in options or {} if key not in known), None)
        if unknown is not None:
            raise InvalidInputError(
                f"what[{name!r}] has no option {unknown!r}; it has {', '.join(known)}. Seed, point and start are the "
                f"monitor's own."
            )
    return {name: dict(options or {}) for name, options in asked.items()}


def checked_step(step: Any) -> int:
    """Return a number of steps as an int, or raise InvalidInputError."""
    try:
        found = operator.index(step)
    except TypeError:
        found = -1
    if isinstance(step, bool) or found < 0:
        raise InvalidInputError(f"step is the number of steps that the optimizer has taken, got {step!r}.")
    return found


def earlier_history(history: Any) -> HistoryResult | None:
    """Return the history that goes on, read from a file that is there, or None."""
    if isinstance(history, (str, os.PathLike)):
        check_folder(npz_path(history))
        history = load(history) if Path(history).exists() else None
    if history is not None and not isinstance(history, HistoryResult):
        raise InvalidInputError(
            f"history must be a HistoryResult, as monitor.history or specop.load(path) return it, got "
            f"{type(history).__name__}."
        )
    return history


def shared_history(processes: Processes, history: Any) -> HistoryResult | None:
    """Return the history that goes on in all processes, as the first one sees the file."""
    with processes.together():
        found = earlier_history(history) if processes.index == 0 else None
    earlier: HistoryResult | None = processes.of_first(found)
    return earlier


def check_schedule(processes: Processes, every: int | None) -> None:
    """Raise InvalidInputError if clocks would say when several processes record."""
    if processes.count > 1 and every is None:
        raise InvalidInputError(
            f"Monitor needs every= where {processes.count} processes record together: by their clocks one would record "
            f"where another does not, and wait for it. Pass every=200, say, in all of them."
        )


def check_together(processes: Processes, step: int, last_step: int | None) -> None:
    """Raise InvalidInputError unless all processes record the same step, after the same last one."""
    if processes.count == 1:
        return
    told = processes.exchange((step, last_step))
    other = next((number for number, one in enumerate(told) if one != told[0]), None)
    if other is not None:
        raise InvalidInputError(
            f"processes 0 and {other} of {processes.count} record different steps, {told[0][0]} after {told[0][1]} and "
            f"{told[other][0]} after {told[other][1]}: each calls record(step) with the same numbers, and begins with "
            f"the same history."
        )


def check_model(whose: str, structure: Structure, samples: int, objective: Objective) -> None:
    """Raise InvalidInputError unless an objective is of the model that a history is of, and of as many samples."""
    here, there = objective.shapes, structure.shapes
    # Dicts are equal in whatever order.
    if [(name, tuple(shape)) for name, shape in here.items()] != list(there.items()):
        raise InvalidInputError(
            f"{whose} is of another model: {_difference(there, here)}. Pass the history of this model, or begin a new "
            f"one with another Monitor."
        )
    if objective.samples != samples:
        raise InvalidInputError(
            f"{whose} is of {samples} samples, and the objective has {objective.samples}: records of two samples of "
            f"data cannot be compared. Pass the same data, or begin a new history."
        )


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return in words where two sets of parameters differ first."""
    for name in {**there, **here}:
        one, other = there.get(name), here.get(name)
        if one is None:
            return f"the parameter {name!r} is new"
        if other is None:
            return f"the parameter {name!r} is missing now"
        if tuple(one) != tuple(other):
            return f"{name!r} has the shape {tuple(one)} there and {tuple(other)} here"
    return "the same parameters stand in another order"
