"""Task: one call of a public function, which owns what each of them needs and none is about; and whose frame called."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, TypeVar

from specop.arrays import probes
from specop.arrays.backend import Array, Backend
from specop.arrays.processes import Processes
from specop.arrays.same_call import check_same_call, number_of_call
from specop.errors import ConvergenceWarning, NotConvergedError
from specop.krylov.progress import progress_bar
from specop.operators.operator import LinearOperator
from specop.results.result import Result, versions

__all__ = ["Task", "level_of_user"]

_AnyResult = TypeVar("_AnyResult", bound=Result)
_innermost: ContextVar[Task | None] = ContextVar("specop_task", default=None)


class Task:
    """One call of a public function: its seed, its clock, its bar, and the stamp of its result.

    A task that begins inside another one shows no bar of its own, and the outer one counts its products.

    Parameters
    ----------
    name : str
        What the progress bar and errors call the task.
    backend : Backend
        Backend of the arrays that the call works on.
    processes : Processes
        Processes that make this call together. A task that is no part of another one's asks them whether they do, so
        that it is made before arguments are looked at: what one process refuses, all refuse.
    seed : int
        Seed of all random vectors.
    samples : int, optional
        Number of data samples behind the result, where there are any.
    progress : bool
        Whether to show a bar if standard error is a terminal.
    raise_on_failure : bool
        Whether `result` raises NotConvergedError instead of warning.
    operators : sequence of LinearOperator
        Operators that `multiply_by` is called with; their sessions are open while the task runs. They may be set before
        it is entered, where arguments that are to be looked at make them.

    Attributes
    ----------
    products : int
        Products so far, those of tasks inside this one included.
    notes : dict
        Notes for the result as keys: those of this task and of tasks inside it.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        processes: Processes,
        *,
        seed: int = 0,
        samples: int | None = None,
        progress: bool = False,
        raise_on_failure: bool = False,
        operators: Sequence[LinearOperator] = (),
    ) -> None:
        outer = _innermost.get()
        if processes.count > 1 and (outer is None or outer.processes.count == 1):
            check_same_call(processes.exchange(number_of_call(with_lists=True)), processes.exchange)
        self.name = name
        self.backend = backend
        self.processes: Processes = processes
        self.seed = probes.check_seed(seed)
        self.samples = samples
        self.products = 0
        self.notes: dict[str, None] = {}
        self.total: int | None = None
        self._progress = progress
        self._raise_on_failure = raise_on_failure
        self.operators = operators
        self._outer: Task | None = None
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._outer = _innermost.get()
        with ExitStack() as stack:
            for operator in self.operators:
                stack.enter_context(operator.session())
            show = self._progress and self._outer is None and self.processes.index == 0
            self._bar = stack.enter_context(progress_bar(show, self.name, self.total))
            self._token = _innermost.set(self)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _innermost.reset(self._token)
        if self._outer is not None:
            self._outer.notes |= self._noted()
        self._stack.__exit__(kind, error, trace)

    def multiply_by(self, A: LinearOperator, x: Array) -> Array:
        """Return A x in fresh storage, for one of the task's operators."""
        self._count(1)
        return A._matvec(x)

    def note(self, text: str) -> None:
        """Let the result say something beside what its operators do."""
        self.notes[text] = None

    def update(self, note: str = "") -> None:
        """Move the bar to the number of products, with a note behind it; inside another task, that task's bar."""
        if self._outer is None:
            self._bar(self.products, note)
        else:
            self._outer.update(note)

    def result(
        self, kind: type[_AnyResult], /, *, converged: bool, message: str, stopped: bool = False, **fields: Any
    ) -> _AnyResult:
        """Return a result of this kind with its provenance; without convergence warn the user, or raise.

        Parameters
        ----------
        kind : type
            A subclass of `Result`.
        converged : bool
            Whether the requested accuracy was reached.
        message : str
            Why the method stopped; where it failed, also what to do.
        stopped : bool
            Whether it ended where the caller wanted it to, by a callback or after some steps, which is no failure.
        **fields
            What the kind adds to the fields of `Result`.

        Raises
        ------
        NotConvergedError
            Where ``raise_on_failure`` was asked for.
        """
        made = kind(
            **fields,
            converged=converged,
            message=message,
            matvecs=self.products,
            seconds=time.perf_counter() - self._started,
            samples=self.samples,
            seed=self.seed,
            versions=versions(self.backend.name),
            notes="; ".join(self._noted()),
        )
        if not converged and not stopped:
            if self._raise_on_failure:
                raise NotConvergedError(message, made)
            self.warn(message, ConvergenceWarning)
        return made

    def warn(self, message: str, category: type[Warning]) -> None:
        """Warn the user, once for all processes."""
        with self.processes.together():
            if self.processes.index == 0:
                warnings.warn(message, category, stacklevel=level_of_user())

    def _noted(self) -> dict[str, None]:
        return self.notes | dict.fromkeys(note for A in self.operators for note in A.notes)

    def _count(self, products: int) -> None:
        self.products += products
        if self._outer is not None:
            self._outer._count_inside(self, products)

    def _count_inside(self, inner: Task, products: int) -> None:
        self._count(products)


def level_of_user() -> int:
    """Return the stacklevel, for a warning from the caller, of the first frame outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "specop":
        level, frame = level + 1, frame.f_back
    return level
