"""Whether the model and its data are still as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from specop.arrays.backend import Array
from specop.errors import ParametersChangedError
from specop.objectives.autodiff import Autodiff
from specop.objectives.data import Batches

__all__ = ["Point", "unchanged"]


class Point:
    """Where an operator belongs: the parameters that were given, or the model's own, and all that must stay.

    Parameters
    ----------
    autodiff : Autodiff
    data : Batches
    theta : native vector or None
        None for the model's parameters.

    Attributes
    ----------
    theta : native vector or None
        A copy.
    fingerprint : object
        Of all that must stay; comparable.
    """

    def __init__(self, autodiff: Autodiff, data: Batches, theta: Array | None) -> None:
        self._autodiff, self._data, self._fixed = autodiff, data, theta is not None
        self.theta = None if theta is None else autodiff.backend.copy(theta)
        self.fingerprint = autodiff.fingerprint(fixed=self._fixed)

    def unchanged(self) -> AbstractContextManager[None]:
        """Return a context that raises ParametersChangedError unless the model is there, at entry and exit."""
        return unchanged(self._autodiff, self._data, since=self.fingerprint, fixed=self._fixed)


@contextmanager
def unchanged(autodiff: Autodiff, data: Batches, *, since: Any = None, fixed: bool = False) -> Iterator[None]:
    """Raise ParametersChangedError unless the model is at a fingerprint, by default its present one, at entry and exit.

    Parameters
    ----------
    autodiff : Autodiff
    data : Batches
        Which must stay too.
    since : object, optional
        The fingerprint.
    fixed : bool
        Whether the selected parameters may change, because theta is given.
    """
    found = autodiff.fingerprint(fixed=fixed)
    if since is not None and found != since:
        raise ParametersChangedError(
            "the model's parameters, buffers or modes have changed since this operator was made, so its products "
            "would belong to neither point. Make a new one, such as objective.hessian(), or fix the point "
            "with objective.hessian(theta)."
        )
    data.check_unchanged()
    with autodiff.preserved():
        yield
    data.check_unchanged()
    if autodiff.fingerprint(fixed=fixed) != found:
        raise ParametersChangedError(
            "the model's parameters, buffers or modes changed during this call. Do not train or load weights "
            "while curvature is computed; if the forward pass updates the model itself, call model.eval()."
        )
