"""DealtBatches: batches that are dealt out to several devices of one process, each of which has the parameters.

A batch is cut into as many parts as there are devices where its loss is the mean over theirs. That is looked at once
for each batch, by its loss and those of its parts. Where it is not so, as with masks whose terms nobody counts and
where samples are coupled, whole batches go from device to device, which leaves every loss as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from specop.errors import InvalidInputError
from specop.objectives.data import Batches

__all__ = ["Dealing", "DealtBatches"]

T = TypeVar("T")

# What rounding may do to a loss, in rounding errors and as a fraction.
_ROUNDING, _COARSEST = 1_000.0, 1e-5


class Dealing(Protocol):
    """What derivatives that have several devices offer besides those of `specop.objectives.Autodiff`."""

    devices: Sequence[Any]
    """Each has all parameters; vectors are on the first one."""

    def placed(self, batch: Any, number: int) -> Any:
        """Return a batch on one of the devices; what is computed of it is computed there."""

    def at_once(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Return what tasks compute, each on its device, at the same time."""


class DealtBatches(Batches):
    """What `Batches` is, for derivatives that offer `Dealing`."""

    def __init__(self, data: Any, autodiff: Any, *options: Any) -> None:
        super().__init__(data, autodiff, *options)
        self.devices = len(autodiff.devices)
        # Of a batch; not decided until losses can be compared.
        self._parts: int | None = None

    @property
    def cut(self) -> tuple[int | None, int]:
        """What says into which parts batches are cut: another one means other parts."""
        return self.limit, self._parts or 1

    def deal(self, loss: Callable[[Any], float | None]) -> None:
        """Cut batches for several devices where each one's loss is the mean over those of its parts.

        Parameters
        ----------
        loss : callable
            The loss of a batch at some parameters that make all terms different; None where it has none.
        """
        if self._parts is not None:
            return
        if self.are_as_given:
            self._parts = 1
            return
        with self.reading_whole() as batches:
            self._parts = self.devices if all(self._adds_up(batch, loss) for batch, _, _ in batches) else 1

    def at_once(self, tasks: Sequence[Callable[[], T]]) -> Iterable[T]:
        """Return what as many tasks as there are devices compute."""
        found: list[T] = self._autodiff.at_once(tasks)  # type: ignore[attr-defined]
        return found

    def _placed(self, batches: Iterator[tuple[Any, float, int]]) -> Iterator[tuple[Any, float, int]]:
        place = 0
        for batch, share, first in batches:
            for part, portion in self._cut_up(batch, self._parts or 1):
                if portion > 0:
                    yield self._on(place, part), share * portion, first
                    place += 1
                first += self._autodiff.count(part)

    def _cut_up(self, batch: Any, parts: int) -> list[tuple[Any, float]]:
        count = self._autodiff.count(batch)
        return [(batch, 1.0)] if min(parts, count) < 2 else self.pieces(batch, -(-count // parts))

    def _on(self, place: int, batch: Any) -> Any:
        return self._autodiff.placed(batch, place % self.devices)  # type: ignore[attr-defined]

    def _adds_up(self, batch: Any, loss: Callable[[Any], float | None]) -> bool:
        if len(self.competing(batch)) > 1:
            return False
        try:
            parts = self._cut_up(batch, self.devices)
        except InvalidInputError:
            # The weights of parts do not add up, or arrays cannot be cut.
            return False
        if len(parts) == 1:
            return True
        shares = [share for _, share in parts]
        losses = [loss(self._on(place, part)) if share > 0 else 0.0 for place, (part, share) in enumerate(parts)]
        whole = loss(batch)
        if whole is None or None in losses:
            return False
        known = np.array(losses, dtype=np.float64)
        tolerance = min(_ROUNDING * self._autodiff.precision, _COARSEST) * max(abs(whole), *abs(known))
        return bool(abs(np.dot(shares, known) - whole) <= tolerance)
