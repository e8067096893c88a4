"""Point: a model, its data, what memory they may take, and the parameters that they are looked at with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from specop.arrays.backend import Array, Backend
from specop.arrays.memory import MemoryBudget
from specop.errors import ParametersChangedError
from specop.objectives.autodiff import Autodiff
from specop.objectives.data import Batches

__all__ = ["Point"]


@dataclass(frozen=True, eq=False)
class Point:
    """Where a matrix of a mean loss belongs; made by `Point.of`.

    Attributes
    ----------
    autodiff : Autodiff
        Derivatives of the model for one batch.
    data : Batches
        What the loss is the mean over.
    budget : MemoryBudget
        What batches and linearizations may take.
    theta : native vector or None
        The selected parameters; None for those that the model has.
    fingerprint : object
        Checksum of all that must stay as it is; equal where nothing has changed.
    """

    autodiff: Autodiff
    data: Batches
    budget: MemoryBudget
    theta: Array | None
    fingerprint: Any

    @classmethod
    def of(cls, autodiff: Autodiff, data: Batches, budget: MemoryBudget, theta: Array | None = None) -> Point:
        """Return the point of a model as it is now, with the selected parameters fixed at a copy of `theta`."""
        held = None if theta is None else autodiff.backend.copy(theta)
        return cls(autodiff, data, budget, held, autodiff.fingerprint(fixed=held is not None))

    def __getstate__(self) -> dict[str, Any]:
        # A pickle or a copy is of this point, so the model must not have moved from it; it is looked at again there.
        self.check()
        return {**vars(self), "fingerprint": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        vars(self)["fingerprint"] = self.autodiff.fingerprint(fixed=self.theta is not None)

    @property
    def backend(self) -> Backend:
        """Array primitives of the model's framework."""
        return self.autodiff.backend

    def check(self) -> None:
        """Raise ParametersChangedError or NondeterministicError unless model and data are as they were."""
        if self.has_moved():
            raise ParametersChangedError(
                "the model's parameters, buffers, layers or modes have changed since this operator was made, so its "
                "products would belong to neither point. Make a new one, such as objective.hessian(), or fix the point "
                "with objective.hessian(theta)."
            )
        self._check_data()

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Check at entry and exit, and put random states back."""
        self.check()
        with self.staying():
            yield

    @contextmanager
    def staying(self) -> Iterator[None]:
        """Check at exit only, for a point that has just been made, and put random states back."""
        with self.autodiff.preserved():
            yield
        self._check_data()
        if self.has_moved():
            raise ParametersChangedError(
                "the model's parameters, buffers, layers or modes changed during this call. Do not train or load "
                "weights while curvature is computed; if the forward pass updates the model itself, call model.eval()."
            )

    def _check_data(self) -> None:
        with self.backend.processes(self.autodiff.layout).together():
            self.data.check_unchanged()

    def has_moved(self) -> bool:
        """Whether the model is not what it was when the point was made."""
        return bool(self.autodiff.fingerprint(fixed=self.theta is not None) != self.fingerprint)
