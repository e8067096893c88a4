"""Processes: those that make the same call together, each with its part of the vectors."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

from specop import errors

__all__ = ["ALONE", "Processes"]


class Processes:
    """The processes that hold a spread vector; as it is, one that is alone.

    All of them run the same code on the same numbers, so that whatever only one of them sees, a clock, a file, a user,
    an error, is shared before anything follows from it. Each method is to be called by all of them. What they tell each
    other says in which call of the user's each of them is: where these differ, all of them raise InvalidInputError.

    Attributes
    ----------
    index : int
        Number of this process, from 0.
    count : int
        How many there are.
    """

    index = 0
    count = 1

    def exchange(self, value: Any) -> list[Any]:
        """Return what each process gives, anything that can be pickled, in their order."""
        return [value]

    def agree(self) -> None:
        """Raise InvalidInputError in all of them unless they are in the same call of the user's."""
        self.any(False)

    def any(self, holds: bool) -> bool:
        """Return whether something holds in any of the processes."""
        return any(self.exchange(holds))

    def of_first(self, value: Any) -> Any:
        """Return what process 0 gives."""
        return self.exchange(value)[0] if self.count > 1 else value

    def check_arithmetic(self) -> None:
        """Raise if processes that are given the same numbers would go different ways.

        Small eigenproblems are solved in each process, of numbers that are the same to the last bit; what they lead to
        is the same where the linear algebra is.

        Raises
        ------
        InvalidInputError
            If the processes' linear algebra gives different bits.
        """
        entries = np.cos(np.arange(32 * 32.0)).reshape(32, 32)
        values, vectors = np.linalg.eigh(entries + entries.T)
        told = self.exchange((values.tobytes(), vectors.tobytes(), np.exp(values).tobytes(), np.__version__))
        other = next((number for number, one in enumerate(told) if one != told[0]), None)
        if other is not None:
            raise errors.InvalidInputError(
                f"processes 0 and {other} of {self.count} find different bits for the eigenvalues of the same small "
                f"matrix, so that they would take different steps and wait for each other. Give them the same "
                f"versions of NumPy and SciPy, the same number of threads (OMP_NUM_THREADS), and on different "
                f"processors the same kernels, such as OPENBLAS_CORETYPE=Haswell."
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """End a block in which the processes do not wait for each other: an error in one is raised in all."""
        if self.count == 1:
            yield
            return
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
        if self.any(error is not None):
            self.raise_together(error)

    def raise_together(self, error: BaseException | None) -> NoReturn:
        """Raise, in every process, the error of the first one that gives one.

        Raises
        ------
        Exception
            That process raises its own; the others one of the same class, if it is one of Python's or of specop's,
            which says where it comes from, and else ProcessError, or its own where that is of the same class.
        """
        if self.count == 1:
            assert error is not None
            raise error
        told = self.exchange(None if error is None else (type(error).__name__, str(error)))
        first = next(number for number, one in enumerate(told) if one is not None)
        if error is not None and (first == self.index or told[self.index] == told[first]):
            raise error
        kind, text = told[first]
        found = _error(kind, f"process {first} of {self.count}: {kind}: {text}")
        # A framework's own class, which nothing here can make: callers may catch it.
        if error is not None and type(error).__name__ == kind and type(found).__name__ != kind:
            raise error
        raise found from error


def _error(kind: str, text: str) -> BaseException:
    known = getattr(errors, kind, None) or getattr(builtins, kind, None)
    if isinstance(known, type) and issubclass(known, BaseException):
        try:
            return known(text)
        except TypeError:
            # Some classes need more than a text.
            pass
    return errors.ProcessError(text)


ALONE = Processes()
"""A process that holds all of its vectors itself."""
