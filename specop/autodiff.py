"""What a framework's adapter provides for one batch; everything around it is written once, in the core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from specop.backend import Array, Backend, Layout

__all__ = ["Autodiff", "Linearization"]


@dataclass(frozen=True)
class Linearization:
    """A product with one vector, and what multiplies the next ones.

    Attributes
    ----------
    first : native vector
        The product with the vector given.
    apply : callable
        Multiplies another vector, without another look at model or data.
    bytes : int
        Memory held by `apply`.
    """

    first: Array
    apply: Callable[[Array], Array]
    bytes: int


class Autodiff(Protocol):
    """What a framework provides for one batch. Losses are means over the batch; vectors follow `layout`.

    ``theta=None`` stands for the model's current parameters.
    """

    backend: Backend
    layout: Layout
    names: tuple[str, ...]

    @property
    def precision(self) -> float:
        """Relative rounding error of a product."""

    def restrict(self, select: Any) -> Autodiff:
        """Return the same for a part of the parameters."""

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure as a vector."""

    def unflatten(self, vector: Array) -> Any:
        """Return a vector as a parameter structure."""

    def fingerprint(self, *, fixed: bool = False) -> Any:
        """Return something comparable that changes with all that the loss depends on besides the data.

        At a fixed theta that is less: the selected parameters do not count.
        """

    def free_memory(self) -> int:
        """Return the free bytes on the device."""

    def preserved(self) -> Any:
        """Return a context manager that puts the framework's random state back."""

    def prepare(self, batch: Any) -> Any:
        """Return the batch on the device."""

    def count(self, batch: Any) -> int:
        """Return the number of samples in a batch."""

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that a batch takes."""

    def batch_versions(self, batch: Any) -> tuple[int, ...]:
        """Return counters that move when a batch's arrays are written into; empty where arrays are immutable."""

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]:
        """Return a checksum of a batch."""

    def loss(self, theta: Array | None, batch: Any) -> Array:
        """Return the loss."""

    def gradient(self, theta: Array | None, batch: Any) -> tuple[Array, Array]:
        """Return loss and gradient."""

    def linearize(self, theta: Array | None, batch: Any, vector: Array) -> Linearization:
        """Return the Hessian-vector product, and what multiplies further vectors."""

    def product(self, theta: Array | None, batch: Any, vector: Array) -> Array:
        """Return the Hessian-vector product and keep nothing."""
