"""Curvature operators: symmetric matrices of a mean loss at one point, made by the methods of `Objective`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from specop.arrays import probes
from specop.arrays.backend import Array, numbers_of
from specop.arrays.layout import Layout
from specop.errors import ParametersChangedError
from specop.objectives.blocks import BlockDiagonalOperator, CouplingOperator
from specop.objectives.part import SampleMean
from specop.objectives.point import Point
from specop.objectives.products import Plan, Products
from specop.operators.operator import Composite, LinearOperator

__all__ = ["CurvatureOperator", "GradientCovariance", "Watched"]


class Watched(LinearOperator):
    """Base of operators that belong to one point of a model.

    Parameters
    ----------
    point : Point
        The domain's vectors are parameters there.
    *products : Products
        What multiplies, if linearizations are held.
    codomain : Layout, optional
        Layout of products; default: that of the parameters.
    **facts : bool or None
        What is known of the matrix.

    Attributes
    ----------
    point : Point
    products : tuple of Products
    """

    def __init__(self, point: Point, *products: Products, codomain: Layout | None = None, **facts: bool | None) -> None:
        super().__init__(point.backend, point.autodiff.layout, codomain, **facts)
        self.point = point
        self.products = products
        self._is_watched = False

    @contextmanager
    def session(self) -> Iterator[None]:
        if self._is_watched:
            yield
            return
        try:
            with self.point.unchanged():
                self._is_watched = True
                try:
                    yield
                finally:
                    self._is_watched = False
        except ParametersChangedError:
            # What was linearized meanwhile may be of another point.
            for products in self.products:
                products.release()
            raise

    @contextmanager
    def _brief_session(self) -> Iterator[None]:
        if self._is_watched or not (self.products and all(products.are_settled for products in self.products)):
            with self.session():
                yield
            return
        # Nothing of the user's runs: one look, at the end, sees what two would.
        with self.point.autodiff.preserved():
            yield
        self.point.check()

    @property
    def precision(self) -> float:
        return self.point.autodiff.precision

    @property
    def working_bytes(self) -> int:
        return super().working_bytes + sum(products.working_bytes for products in self.products)

    @property
    def samples(self) -> int:
        return self.point.data.samples

    @property
    def notes(self) -> tuple[str, ...]:
        kinds = [products.matrix.kind for products in self.products]
        verdicts = [products.verdict for products in self.products if products.verdict]
        unverified = [f"not verified: {verdict.reason}" for verdict in verdicts if verdict.reason]
        remarks = [remark for verdict in verdicts for remark in verdict.remarks]
        return (*(kind for kind in kinds if "empirical" in kind), *unverified, *remarks)

    def flatten(self, tree: Any) -> Array:
        return self.point.autodiff.flatten(tree)


class CurvatureOperator(Watched):
    """Symmetric matrix of an objective at one point, such as the Hessian.

    Parameters
    ----------
    products : Products
        With the matrix, at the point where the operator belongs.
    is_psd : bool, optional
        Whether the matrix is positive semidefinite; None for unknown.
    """

    def __init__(self, products: Products, is_psd: bool | None = None) -> None:
        super().__init__(products.point, products, is_symmetric=True, is_psd=is_psd)

    def _matvec(self, x: Array) -> Array:
        return self.products[0](x)

    @property
    def sample_mean(self) -> SampleMean:
        """The same matrix as a mean over samples."""
        return SampleMean(self.products[0])

    def plan(self) -> Plan:
        """Return how products are computed; batches that are not linearized yet are, within the memory budget."""
        with self.session():
            return self.products[0].plan(probes.rademacher(self.backend, self.domain, 0, 0))

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
        return BlockDiagonalOperator(self, self.products[0], blocks)

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
        return CouplingOperator(self, self.point.autodiff, rows, columns)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(zip(self.point.autodiff.names, self.point.autodiff.shapes, strict=True))

    def unflatten(self, vector: Array) -> Any:
        return self.point.autodiff.unflatten(vector)


class GradientCovariance(Composite):
    """``F - g g'`` of an empirical Fisher matrix and the mean gradient: the covariance of the samples' gradients."""

    def __init__(self, fisher: LinearOperator, gradient: Array) -> None:
        super().__init__((fisher,), fisher.domain, fisher.codomain, is_psd=True)
        self.gradient = gradient

    def _matvec(self, x: Array) -> Array:
        (along,) = numbers_of(self.backend, self.backend.dot(self.gradient, x))
        return self.backend.axpy_(self.parts[0]._matvec(x), -along, self.gradient)
