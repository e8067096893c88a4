"""load_objective: run a task file, and tell in one line what goes wrong in it (TaskError, task_errors)."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from specop.errors import InvalidInputError, SpecopError
from specop.objectives.mean import Objective
from specop.objectives.objective import objective

__all__ = ["TaskError", "load_objective", "task_errors"]

# The file's own name might be that of a module that it imports.
_MODULE = "_specop_task"


class TaskError(Exception):
    """An exception in the user's own code, told in one line."""


def load_objective(path: Path) -> Objective:
    """Run a task file and return what its ``objective()`` returns.

    Parameters
    ----------
    path : Path
        A Python file with a function `objective()`.

    Returns
    -------
    Objective

    Raises
    ------
    InvalidInputError
        If the file has no such function, or that returns something else.
    """
    make = getattr(_run(path), "objective", None)
    if not callable(make) or make is objective:
        raise InvalidInputError(
            f"{path.name} must define a function objective() of its own that returns specop.objective(model, "
            f"criterion, data)."
        )
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise InvalidInputError(f"objective() in {path.name} must not need arguments: {error}.") from error
    made = make()
    if not isinstance(made, Objective):
        raise InvalidInputError(
            f"objective() in {path.name} must return what specop.objective(model, criterion, data) gives, but "
            f"returned {type(made).__name__}."
        )
    return made


@contextlib.contextmanager
def task_errors(path: Path, *, show_traceback: bool) -> Iterator[None]:
    """Turn an exception out of the task's code, while loading or in any later product, into a `TaskError`."""
    try:
        yield
    except SpecopError:
        raise
    except (Exception, SystemExit) as error:
        if show_traceback:
            traceback.print_exc()
        raise TaskError(f"{type(error).__name__} in {_place(error, path)}: {error}") from error


def _place(error: BaseException, path: Path) -> str:
    """Return the last line of the task file that was involved, or else where the exception came from."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(path.resolve())]
    last = (own or frames)[-1]
    return f"{last.filename}, line {last.lineno}"


def _run(path: Path) -> ModuleType:
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(_MODULE, path, loader=SourceFileLoader(_MODULE, str(path)))
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"{path.name} cannot be run as a Python file.")
    module = importlib.util.module_from_spec(spec)
    # As `python task.py` would have it: neighbours can be imported, classes can be found by name.
    sys.path.insert(0, str(path.parent))
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module
