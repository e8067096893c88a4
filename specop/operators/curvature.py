"""Curvature operators: the Hessian of a mean loss over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from specop.autodiff import Autodiff
from specop.backend import Array, Backend
from specop.batches import Batches
from specop.operators.base import LinearOperator

__all__ = ["HessianOperator", "HessianProducts", "accumulate"]


class HessianOperator(LinearOperator):
    """Hessian of an objective at one point; made by `Objective.hessian`.

    Parameters
    ----------
    products : HessianProducts
    unchanged : callable
        Returns a context manager that raises ParametersChangedError unless the model stays where it was.
    """

    def __init__(self, products: HessianProducts, unchanged: Callable[[], AbstractContextManager[None]]) -> None:
        autodiff = products.autodiff
        super().__init__(autodiff.backend, autodiff.layout, is_symmetric=True)
        self._products = products
        self._unchanged = unchanged
        self._watched = False

    def _matvec(self, x: Array) -> Array:
        return self._products(x)

    @contextmanager
    def session(self) -> Iterator[None]:
        if self._watched:
            yield
            return
        with self._unchanged():
            self._watched = True
            try:
                yield
            finally:
                self._watched = False

    @property
    def precision(self) -> float:
        return self._products.autodiff.precision

    @property
    def samples(self) -> int:
        return self._products.data.samples

    def flatten(self, tree: Any) -> Array:
        return self._products.autodiff.flatten(tree)

    def unflatten(self, vector: Array) -> Any:
        return self._products.autodiff.unflatten(vector)


class HessianProducts:
    """Products at one point: linearizations as far as the memory budget goes, recomputation beyond it.

    Parameters
    ----------
    autodiff : Autodiff
    data : Batches
    budget : callable
        Returns the bytes that linearizations may take.
    theta : native vector or None
        The point; None for the model's own parameters.
    """

    def __init__(self, autodiff: Autodiff, data: Batches, budget: Callable[[], int], theta: Array | None) -> None:
        self.autodiff = autodiff
        self.data = data
        self._budget = budget
        self._theta = theta
        self.release()

    def release(self) -> None:
        """Forget all linearizations; the next product makes new ones."""
        self._linear: list[Callable[[Array], Array] | None] | None = None
        self._shares: list[float] = []
        self._witness: tuple[Array, Array] | None = None
        self._mistrusted = False

    def __call__(self, vector: Array) -> Array:
        """Return the product with a vector, in fresh storage."""
        if self._mistrusted:
            return self._recompute(vector)
        if self._linear is None:
            return self._linearize(vector)
        product = self._apply(vector, self._linear)
        if self._witness is not None and not self._agrees(vector, product, *self._witness):
            self.release()
            self._mistrusted = True
            return self._recompute(vector)
        self._witness = None
        return product

    def _linearize(self, vector: Array) -> Array:
        room, largest = self._budget(), 0
        linear: list[Callable[[Array], Array] | None] = []
        total: Array | None = None
        shares: list[float] = []
        with self.data.reading() as batches:
            for batch, share in batches:
                shares.append(share)
                # Batches are much alike: the largest so far tells whether another one is worth a try.
                if largest <= room:
                    made = self.autodiff.linearize(self._theta, batch, vector)
                    largest = max(largest, made.bytes)
                    fits = made.bytes <= room
                    room -= made.bytes if fits else 0
                    linear.append(made.apply if fits else None)
                    part = made.first
                else:
                    linear.append(None)
                    part = self.autodiff.product(self._theta, batch, vector)
                total = accumulate(self.autodiff.backend, total, share, part)
        # All at the end, so that a pass that fails leaves nothing behind.
        self._linear, self._shares = linear, shares
        self._witness = (self.autodiff.backend.copy(vector), self.autodiff.backend.copy(total))
        return total

    def _apply(self, vector: Array, linear: list[Callable[[Array], Array] | None]) -> Array:
        total: Array | None = None
        # Where everything is kept there is no need to touch the data.
        data: Any = self.data.reading() if None in linear else nullcontext((None, share) for share in self._shares)
        with data as batches:
            for (batch, share), apply in zip(batches, linear, strict=True):
                part = self.autodiff.product(self._theta, batch, vector) if apply is None else apply(vector)
                total = accumulate(self.autodiff.backend, total, share, part)
        return total

    def _recompute(self, vector: Array) -> Array:
        total: Array | None = None
        with self.data.reading() as batches:
            for batch, share in batches:
                part = self.autodiff.product(self._theta, batch, vector)
                total = accumulate(self.autodiff.backend, total, share, part)
        return total

    def _agrees(self, vector: Array, product: Array, other: Array, other_product: Array) -> bool:
        """Whether the first replayed product fits the one that autograd computed: u'(H v) = v'(H u)."""
        backend = self.autodiff.backend
        left, right, *lengths = backend.to_host(
            backend.dot(other, product),
            backend.dot(vector, other_product),
            *(backend.norm(x) for x in (vector, product, other, other_product)),
        )
        scale = float(lengths[0] * lengths[3] + lengths[1] * lengths[2])
        # Not finite: let the algorithm that asked say so.
        return not bool(abs(left - right) > self.autodiff.precision**0.5 * scale)


def accumulate(backend: Backend, total: Array | None, share: float, part: Array) -> Array:
    """Return ``total + share * part``; both are consumed."""
    return backend.scale_(part, share) if total is None else backend.axpy_(total, share, part)
