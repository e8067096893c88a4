"""Objective: the mean loss over data as a function of a parameter vector, and its derivatives."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.arrays.memory import MemoryBudget
from specop.errors import InvalidInputError
from specop.objectives.autodiff import HESSIAN, Autodiff, Matrix
from specop.objectives.curvature import CurvatureOperator, GradientCovariance, JacobianOperator
from specop.objectives.data import Batches
from specop.objectives.differences import DifferenceOperator
from specop.objectives.inverse_products import inverse_product
from specop.objectives.passes import mean_gradient, mean_loss, sample_gradients
from specop.objectives.point import Point, unchanged
from specop.objectives.products import JacobianProducts, Plan, Products
from specop.objectives.select import checked_samples
from specop.objectives.splitting import block_bytes as default_block_bytes
from specop.operators.operator import LinearOperator
from specop.results.solve import SolveResult
from specop.solvers.woodbury.sherman_morrison import ShermanMorrison

__all__ = ["Objective"]


class Objective:
    """The mean loss over a data set as a function of a parameter vector; made by `objective`.

    Parameters
    ----------
    autodiff : Autodiff
        One-batch derivatives.
    data : Batches
    budget : MemoryBudget
        What batches and linearizations may take.
    """

    def __init__(self, autodiff: Autodiff, data: Batches, budget: MemoryBudget) -> None:
        self._autodiff = autodiff
        self._data = data
        self._budget = budget
        self._kept: dict[Matrix, tuple[Any, Products]] = {}

    @property
    def n(self) -> int:
        """Number of selected parameters."""
        return self._autodiff.layout.n

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the selected parameters, in the order of the vector."""
        return self._autodiff.names

    @property
    def samples(self) -> int:
        """Number of samples in the data."""
        return self._data.samples

    @property
    def terms(self) -> float:
        """Number of loss terms in the data: the sum of the batches' weights, by default of their samples."""
        return self._data.terms

    @property
    def theta(self) -> Array:
        """The current values of the selected parameters, a copy as a native vector (n,)."""
        return self._autodiff.point()

    def loss(self, theta: Array | None = None) -> Array:
        """Return the mean loss as a native scalar.

        Parameters
        ----------
        theta : native vector (n,), optional
            Where; default: the model's current parameters.
        """
        self._check(theta)
        with unchanged(self._autodiff, self._data):
            return mean_loss(self._autodiff, self._data, theta)

    def gradient(self, theta: Array | None = None) -> Array:
        """Return the gradient of the mean loss as a native vector (n,)."""
        self._check(theta)
        with unchanged(self._autodiff, self._data):
            return mean_gradient(self._autodiff, self._data, theta)

    def hessian(self, theta: Array | None = None) -> CurvatureOperator:
        r"""Return the Hessian :math:`\nabla^2 L(\theta)` of the mean loss as a symmetric operator, n x n.

        The operator belongs to one point. Used after the model has changed, it raises ParametersChangedError; a new
        ``hessian()`` is then of the new point. With `theta` the point is fixed: only what was not selected must stay
        as it is. The first product linearizes each batch once, within the memory budget;
        later products run the linear part only.

        Parameters
        ----------
        theta : native vector (n,), optional
            Where; default: the model's current parameters.
        """
        return self._operator(theta, HESSIAN)

    def ggn(self, theta: Array | None = None) -> CurvatureOperator:
        r"""Return the generalized Gauss-Newton matrix of the mean loss, a symmetric operator, n x n.

        .. math:: G = \sum_b \frac{w_b}{\sum_c w_c} \, J_b^T \, (\nabla_z^2 \ell_b) \, J_b

        with the Jacobian J of a batch's outputs z and the Hessian of its mean loss in them: the Hessian of L without
        the curvature of the model, equal to it where the outputs are linear in the parameters. It is positive
        semidefinite where the criterion is convex in the outputs, and is marked so where the likelihood is known.
        There it equals ``fisher("exact")``. It needs a criterion, and behaves as `hessian` otherwise.

        Parameters
        ----------
        theta : native vector (n,), optional
            Where; default: the model's current parameters.

        References
        ----------
        N. N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, Neural
        Computation 14 (2002).
        """
        return self._operator(theta, Matrix("ggn"), is_psd=True if self._autodiff.likelihood else None)

    def fisher(
        self, kind: str = "exact", theta: Array | None = None, *, samples: int = 1, seed: int = 0
    ) -> CurvatureOperator:
        r"""Return a Fisher information matrix of the mean loss, a symmetric positive semidefinite operator, n x n.

        The loss averages terms with weights :math:`c_i`, which add up to one for a plain mean. A term is what the
        likelihood draws a label for: a sample, a token, an entry of the outputs.

        ``"exact"`` and ``"mc"`` need a known likelihood p(y | z) of labels given outputs z, and take labels from the
        model, not from the data:

        .. math:: F = \sum_i c_i \, J_i^T \, E_{y \sim p(y | z_i)} [\nabla_z \log p \; \nabla_z \log p^T] \, J_i

        exactly, or by the mean over `samples` labels drawn for each term. The exact one is the generalized
        Gauss-Newton matrix. The draws belong to the seed and to the position of a sample in the data: they are the same
        for the operator's life, for other batch sizes and in every framework. Squared errors that average over C
        outputs are a Gaussian likelihood of variance C/2.

        ``"empirical"`` takes the labels of the data, for the gradients :math:`g_i` of m samples, as
        `per_sample_gradients` returns them:

        .. math:: F = \frac1m \sum_i g_i g_i^T

        It is no approximation of curvature away from a good fit (Kunstner et al.). A sample is an entry of the outputs'
        leading dimension: a sequence, not a token.

        Parameters
        ----------
        kind : {"exact", "mc", "empirical"}
            Which one.
        theta : native vector (n,), optional
            Where; default: the model's current parameters.
        samples : int
            Labels drawn for each term; a product's cost hardly depends on it.
        seed : int
            Of the draws.

        References
        ----------
        J. Martens, New insights and perspectives on the natural gradient method, JMLR 21 (2020).
        F. Kunstner, L. Balles, P. Hennig, Limitations of the empirical Fisher approximation for natural gradient
        descent, NeurIPS (2019).
        """
        if kind not in ("exact", "mc", "empirical"):
            raise InvalidInputError(f"kind must be 'exact', 'mc' or 'empirical', got {kind!r}.")
        if kind == "empirical":
            return self._operator(theta, Matrix("empirical fisher"), is_psd=True)
        if self._autodiff.likelihood is None:
            raise InvalidInputError(
                f"fisher({kind!r}) needs to know the likelihood of labels, and the criterion does not tell. Pass "
                f"likelihood='categorical', 'bernoulli' or 'gaussian' to objective() if it is the negative "
                f"logarithm of one; otherwise take ggn() or fisher('empirical')."
            )
        if kind == "exact":
            return self._operator(theta, Matrix("fisher"), is_psd=True)
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise InvalidInputError(f"samples must be a positive integer, got {samples!r}.")
        drawn = Matrix("sampled fisher", draws=samples, seed=probes.check_seed(seed))
        return self._operator(theta, drawn, is_psd=True)

    def gradient_covariance(self, theta: Array | None = None) -> LinearOperator:
        r"""Return the covariance of the samples' gradients, a symmetric positive semidefinite operator, n x n.

        .. math:: C = \frac1m \sum_i (g_i - \bar g) (g_i - \bar g)^T = F - \bar g \bar g^T

        with the empirical Fisher matrix F and the gradient of L. A minibatch of B samples, drawn with replacement, has
        a gradient with covariance C / B.

        Parameters
        ----------
        theta : native vector (n,), optional
            Where; default: the model's current parameters.
        """
        return GradientCovariance(self.fisher("empirical", theta), self.gradient(theta))

    def jacobian(self, theta: Array | None = None) -> JacobianOperator:
        """Return the Jacobian of all outputs in the parameters, a rectangular operator.

        Rows are the outputs of all samples, in the order of the data, and in a batch in the order of its flattened
        outputs; batches of weight zero have none. Nothing is divided by the number of samples. ``J.T`` is the
        transpose, and ``J @ J.T`` the empirical neural tangent kernel.

        Parameters
        ----------
        theta : native vector (n,), optional
            Where; default: the model's current parameters.
        """
        point = self._point(theta)
        with point.unchanged():
            forward, transposed = (
                JacobianProducts(self._autodiff, self._data, self._budget, point.theta, Matrix(kind))
                for kind in ("jacobian", "transposed jacobian")
            )
        forward.transposed, transposed.transposed = transposed, forward
        return JacobianOperator(forward, point.unchanged)

    def finite_difference_hessian(self, theta: Array | None = None) -> DifferenceOperator:
        r"""Return the Hessian by central differences of the gradient, for models without second derivatives.

        .. math:: H v \approx \frac{|v|}{2h} \left(\nabla L(\theta + h v / |v|) - \nabla L(\theta - h v / |v|)\right)

        A product costs two gradients. The step h is that of a few multiples of :math:`\epsilon^{1/3} |\theta|` at which
        two steps agree best along a direction of large curvature; how well is the operator's ``precision``, as a
        fraction of a product there. Choosing it costs 16 gradients. Expect eight to ten digits in float64 and two
        in float32.

        Parameters
        ----------
        theta : native vector (n,), optional
            Where; default: the model's current parameters.
        """
        point = self._point(theta)
        at = self.theta if point.theta is None else point.theta
        with point.unchanged():
            gradient = functools.partial(mean_gradient, self._autodiff, self._data)
            return DifferenceOperator(self._autodiff, self._data, gradient, at, point.unchanged)

    def solve(self, b: Any, *, matrix: str = "hessian", damping: float, **options: Any) -> SolveResult:
        r"""Multiply by the inverse of a damped curvature matrix: solve (H + damping * I) x = b.

        All matrices are of the *mean* loss. With a sum over m samples, or with a weight decay that belongs to one, the
        same damping is m times smaller here; the result states the system that was solved.

        Parameters
        ----------
        b : native array (n,) or (n, k), or parameter structure
            Right-hand sides, such as ``objective.gradient()``.
        matrix : {"hessian", "ggn", "fisher", "empirical fisher"}
            As `hessian`, `ggn`, ``fisher("exact")`` and ``fisher("empirical")`` make it.
        damping : float
            Multiple of the identity that is added, at least 0. The last three matrices are singular without it for most
            models, and the Hessian indefinite.
        **options
            Of `specop.solve`: method, rtol, atol, max_matvecs, preconditioner, x0, progress, raise_on_failure.

        Returns
        -------
        SolveResult
            With ``damping`` and ``system``.

        Examples
        --------
        >>> import torch, specop
        >>> data = (torch.randn(8, 3), torch.randn(8, 1))
        >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
        >>> objective.solve(objective.gradient(), damping=0.1).system
        '(H + 0.1 I) x = b, H the Hessian of the mean loss'
        """
        return inverse_product(self, b, matrix, damping, options)

    def inverse_fisher(self, damping: float, theta: Array | None = None, **options: Any) -> ShermanMorrison:
        r"""Return the inverse of the damped empirical Fisher matrix, :math:`(F + \delta I)^{-1}`, in closed form.

        It takes one pass over the samples' gradients. Vectors and parameter structures can be multiplied; there is a
        diagonal, and rows can be added and taken out.

        Parameters
        ----------
        damping : float
            :math:`\delta`, at least 0.
        theta : native vector (n,), optional
            Where; default: the model's current parameters.
        **options
            Of `specop.ShermanMorrison`: count, blocks, store, half.

        Examples
        --------
        >>> import torch, specop
        >>> data = (torch.randn(8, 3), torch.randn(8, 1))
        >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
        >>> inverse = objective.inverse_fisher(0.1)
        >>> (inverse @ objective.gradient()).shape, inverse.samples
        (torch.Size([4]), 8)
        """
        return ShermanMorrison(damping, rows=self.per_sample_gradients(theta), structure=self, **options)

    def per_sample_gradients(self, theta: Array | None = None, *, block_bytes: int | None = None) -> Iterator[Array]:
        r"""Yield the gradients of single samples, as the rows of native (b, n) blocks in the order of the data.

        Row i is m times what sample i of m adds to the gradient of L, so that the mean of all rows is that gradient and
        the empirical Fisher matrix is ``G.T @ G / m``: the gradient of the sample's own loss where the criterion is a
        plain mean over samples. A sample is an entry of the outputs' leading dimension. Batch normalization in training
        mode, and whatever else makes samples depend on each other, raises.

        Parameters
        ----------
        theta : native vector (n,), optional
            Where; default: the model's current parameters.
        block_bytes : int, optional
            Memory for a block, at least one row; computing it takes a few times as much. Default: 32 MiB, or an
            eighth of the memory budget if that is less. On a GPU larger blocks may be faster.

        Examples
        --------
        >>> import torch, specop
        >>> data = (torch.randn(8, 3), torch.randn(8, 1))
        >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
        >>> sum(block.sum(0) for block in objective.per_sample_gradients()).shape
        torch.Size([4])
        """
        if block_bytes is not None and block_bytes <= 0:
            raise InvalidInputError(f"block_bytes must be a positive number of bytes, got {block_bytes!r}.")
        return sample_gradients(
            self._autodiff, self._data, self._point(theta), block_bytes or default_block_bytes(self._budget.total)
        )

    @property
    def slices(self) -> dict[str, slice]:
        """Where the entries of each parameter stand in a vector."""
        ends = list(itertools.accumulate(self._autodiff.sizes))
        sizes = zip(self.names, self._autodiff.sizes, ends, strict=True)
        return {name: slice(end - size, end) for name, size, end in sizes}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter."""
        return dict(zip(self.names, self._autodiff.shapes, strict=True))

    def batches(self) -> list[Objective]:
        """Return an objective of each batch, with the same parameters; together they hold all data.

        Batches of weight zero have none. The objective is the mean of these, weighted by their numbers of loss terms.
        """
        with unchanged(self._autodiff, self._data), self._data.reading() as batches:
            return [Objective(self._autodiff, self._data.of(batch), self._budget) for batch, _, _ in batches]

    def subset(self, indices: ArrayLike) -> Objective:
        """Return the mean loss over some of the samples, with the same parameters.

        Parameters
        ----------
        indices : array_like of int
            Distinct numbers of samples, in the order in which the data give them; any order. The subset has the order
            of the data.

        Examples
        --------
        >>> import torch, specop
        >>> data = (torch.randn(8, 3), torch.randn(8, 1))
        >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
        >>> objective.subset([0, 5]).samples
        2
        """
        with unchanged(self._autodiff, self._data):
            chosen = checked_samples(indices, self._data.samples)
            return Objective(self._autodiff, self._data.subset(np.sort(chosen)), self._budget)

    def plan(self) -> Plan:
        """Return how products with the Hessian at the current parameters are computed, and what one costs.

        The batches are linearized if they are not yet.
        """
        return self.hessian().plan()

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure, for a module a mapping from names to tensors, as a native vector."""
        return self._autodiff.flatten(tree)

    def unflatten(self, vector: Array) -> Any:
        """Return a native vector in the structure of the parameters."""
        return self._autodiff.unflatten(vector)

    def restrict(self, select: Any) -> Objective:
        """Return the objective as a function of a part of its parameters; the others stay where they are.

        Parameters
        ----------
        select : str, list, module or callable
            As in `objective`.
        """
        return Objective(self._autodiff.restrict(select), self._data, self._budget)

    def release(self) -> None:
        """Free the linearizations that are kept for further products; they are made again when needed."""
        for _, products in self._kept.values():
            products.release()
        self._kept.clear()

    def __repr__(self) -> str:
        layout = self._autodiff.layout
        return f"<Objective of {self.n} parameters in {len(self.names)} arrays, {layout.dtype}, {layout.device}>"

    def _check(self, theta: Array | None) -> None:
        if theta is not None:
            self._autodiff.backend.check_vector(theta, self._autodiff.layout, "theta")

    def _operator(self, theta: Array | None, matrix: Matrix, *, is_psd: bool | None = None) -> CurvatureOperator:
        point = self._point(theta)
        known = self._kept.get(matrix)
        if point.theta is None and known is not None and known[0] == point.fingerprint:
            products = known[1]
        else:
            products = Products(self._autodiff, self._data, self._budget, point.theta, matrix)
            if point.theta is None:
                self._kept[matrix] = (point.fingerprint, products)
        return CurvatureOperator(products, point.unchanged, is_psd)

    def _point(self, theta: Array | None) -> Point:
        self._check(theta)
        return Point(self._autodiff, self._data, theta)
