"""Curvature operators: matrices of a mean loss over a data set, made by the methods of `Objective`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.arrays.layout import Layout
from specop.objectives.autodiff import Autodiff
from specop.objectives.products import JacobianProducts, Plan, Products
from specop.operators.operator import Composite, LinearOperator

__all__ = ["CurvatureOperator", "GradientCovariance", "JacobianOperator", "Watched"]

Unchanged = Callable[[], AbstractContextManager[None]]


class Watched(LinearOperator):
    """Base of operators that belong to one point of a model.

    Parameters
    ----------
    autodiff : Autodiff
    unchanged : callable
        Returns a context manager that raises ParametersChangedError unless the model stays where it was.
    """

    def __init__(
        self, autodiff: Autodiff, unchanged: Unchanged, codomain: Layout | None = None, **facts: bool | None
    ) -> None:
        super().__init__(autodiff.backend, autodiff.layout, codomain, **facts)
        self._autodiff = autodiff
        self._unchanged = unchanged
        self._is_watched = False

    @contextmanager
    def session(self) -> Iterator[None]:
        if self._is_watched:
            yield
            return
        with self._unchanged():
            self._is_watched = True
            try:
                yield
            finally:
                self._is_watched = False

    @property
    def precision(self) -> float:
        return self._autodiff.precision

    def flatten(self, tree: Any) -> Array:
        return self._autodiff.flatten(tree)


class CurvatureOperator(Watched):
    """Symmetric matrix of an objective at one point, such as the Hessian.

    Parameters
    ----------
    products : Products
    unchanged : callable
        Returns a context manager that raises ParametersChangedError unless the model stays where it was.
    is_psd : bool, optional
        What is known of the matrix.
    """

    def __init__(self, products: Products, unchanged: Unchanged, is_psd: bool | None = None) -> None:
        super().__init__(products.autodiff, unchanged, is_symmetric=True, is_psd=is_psd)
        self._products = products

    def _matvec(self, x: Array) -> Array:
        return self._products(x)

    @property
    def samples(self) -> int:
        return self._products.data.samples

    @property
    def products(self) -> Products:
        """What multiplies, for operators made of this one."""
        return self._products

    def plan(self) -> Plan:
        """Return how products are computed; batches that are not linearized yet are, within the memory budget."""
        with self.session():
            return self._products.plan(probes.rademacher(self.backend, self.domain, 0, 0))

    def block_diagonal(self, blocks: Sequence[Any] | None = None) -> LinearOperator:
        """Return the matrix without what couples different blocks of parameters.

        Parameters
        ----------
        blocks : sequence of selections, optional
            Disjoint parts that cover all parameters, each as `select` in `objective`; default: one for each module that
            holds parameters, told by the names before the last dot.

        Notes
        -----
        A product with K blocks costs K products with this operator on shared linearizations, in one pass over the data.
        Of an empirical Fisher matrix it costs the samples' gradients once, for any K.
        """
        from specop.objectives.blocks import BlockDiagonalOperator

        return BlockDiagonalOperator(self, blocks)

    def coupling(self, rows: Any, columns: Any) -> LinearOperator:
        """Return the rectangular block that couples two parts of the parameters, such as two layers.

        Parameters
        ----------
        rows, columns : str, list, module or callable
            Selections, as `select` in `objective`.

        Notes
        -----
        A product costs one with this operator: restrict the objective to the two parts first where they are a small
        part of the model.
        """
        from specop.objectives.blocks import CouplingOperator

        return CouplingOperator(self, rows, columns)

    def unflatten(self, vector: Array) -> Any:
        return self._autodiff.unflatten(vector)


class GradientCovariance(Composite):
    """``F - g g'`` of an empirical Fisher matrix and the mean gradient: the covariance of the samples' gradients."""

    def __init__(self, fisher: LinearOperator, gradient: Array) -> None:
        super().__init__((fisher,), fisher.domain, fisher.codomain, is_psd=True)
        self.gradient = gradient

    def _matvec(self, x: Array) -> Array:
        (along,) = self.backend.to_host(self.backend.dot(self.gradient, x))
        return self.backend.axpy_(self.parts[0]._matvec(x), -float(along), self.gradient)


class JacobianOperator(Watched):
    """Jacobian of all outputs of an objective at one point, outputs x parameters.

    Parameters
    ----------
    products : JacobianProducts
        With the Jacobian; its ``transposed`` is set.
    unchanged : callable
        As for `CurvatureOperator`.
    """

    def __init__(self, products: JacobianProducts, unchanged: Unchanged) -> None:
        super().__init__(products.autodiff, unchanged, products.outputs)
        self._products = products

    def _matvec(self, x: Array) -> Array:
        return self._products(x)

    def _rmatvec(self, y: Array) -> Array:
        return self._products.transposed(y)

    @property
    def samples(self) -> int:
        return self._products.data.samples
