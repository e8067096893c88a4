"""Matrices: a mean loss with its matrices of second derivatives, as operators."""

from __future__ import annotations

from typing import Any

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.arrays.memory import MemoryBudget
from specop.errors import InvalidInputError, checked_count
from specop.objectives.autodiff import HESSIAN, Autodiff, Matrix
from specop.objectives.curvature import CurvatureOperator, GradientCovariance
from specop.objectives.data import Batches
from specop.objectives.differences import DifferenceOperator
from specop.objectives.jacobian import JacobianOperator
from specop.objectives.loss import MeanLoss
from specop.objectives.products import Plan, Products
from specop.operators.operator import LinearOperator

__all__ = ["MATRICES", "Matrices"]

MATRICES = {
    "hessian": ("H", "the Hessian of the mean loss"),
    "ggn": ("G", "the generalized Gauss-Newton matrix of the mean loss"),
    "fisher": ("F", "the Fisher matrix of the mean loss"),
    "empirical fisher": ("F", "the empirical Fisher matrix, the mean of g g' over samples"),
}
"""The symmetric matrices that `Matrices.matrix` knows by name, each with its letter and what it is."""


class Matrices(MeanLoss):
    """A mean loss and the operators that it makes.

    Linearizations at the model's current parameters are kept, so that operators of the same matrix share them.

    Parameters
    ----------
    autodiff : Autodiff
        Derivatives of the model for one batch.
    data : Batches
        What the loss is the mean over.
    budget : MemoryBudget
        What batches and linearizations may take.
    """

    def __init__(self, autodiff: Autodiff, data: Batches, budget: MemoryBudget) -> None:
        super().__init__(autodiff, data, budget)
        self._kept: dict[Matrix, Products] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Linearizations belong to this process and this model; a copy makes its own.
        return {**vars(self), "_kept": {}}

    def hessian(self, theta: Array | None = None) -> CurvatureOperator:
        r"""Return the Hessian :math:`\nabla^2 L(\theta)` of the mean loss as a symmetric operator, n x n.

        The operator belongs to one point. Used after the model has changed, it raises ParametersChangedError; a new
        ``hessian()`` is then of the new point. With `theta` the point is fixed: only what was not selected must stay
        as it is. The first product linearizes each batch once, within the memory budget;
        later products run the linear part only.

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        """
        return self._operator(theta, HESSIAN)

    def ggn(self, theta: Array | None = None) -> CurvatureOperator:
        r"""Return the generalized Gauss-Newton matrix of the mean loss, a symmetric operator, n x n.

        .. math:: G = \sum_b \frac{w_b}{\sum_c w_c} \, J_b^T \, (\nabla_z^2 \ell_b) \, J_b

        with the Jacobian J of a batch's outputs z and the Hessian of its mean loss in them: the Hessian of L without
        the curvature of the model, equal to it where the outputs are linear in the parameters. It is positive
        semidefinite where the criterion is convex in the outputs, and is marked so where the likelihood is known.
        There it equals ``fisher()``. It needs a criterion, and behaves as `hessian` otherwise.

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.

        References
        ----------
        N. N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, Neural
        Computation 14 (2002).
        """
        return self._operator(theta, Matrix("ggn"), is_psd=True if self._autodiff.likelihood else None)

    def fisher(
        self,
        theta: Array | None = None,
        *,
        kind: str = "exact",
        of: str | None = None,
        draws: int = 1,
        seed: int = 0,
    ) -> CurvatureOperator:
        r"""Return a Fisher information matrix of the mean loss, a symmetric positive semidefinite operator, n x n.

        The loss averages terms with weights :math:`c_i`, which add up to one for a plain mean. A term is what the
        likelihood draws a label for: a sample, a token, an entry of the outputs.

        ``"exact"`` and ``"mc"`` need a known likelihood p(y | z) of labels given outputs z, and take labels from the
        model, not from the data:

        .. math:: F = \sum_i c_i \, J_i^T \, E_{y \sim p(y | z_i)} [\nabla_z \log p \; \nabla_z \log p^T] \, J_i

        exactly, or by the mean over `draws` labels drawn for each term. The exact one is the generalized
        Gauss-Newton matrix. The draws belong to the seed and to the position of a sample in the data: they are the same
        for the operator's life, for other batch sizes and in every framework. Squared errors that average over C
        outputs are a Gaussian likelihood of variance C/2.

        ``"empirical"`` takes the labels of the data instead, one for each term, so that it has the scale of the exact
        one. With ``of="samples"`` it is made of the gradients :math:`g_i` of m samples, as `per_sample_gradients`
        returns them:

        .. math:: F = \frac1m \sum_i g_i g_i^T

        which is smaller by the number of terms that a sample's mean is over: for labels drawn from the model 1/C of
        the exact one for C Bernoulli outputs, 1/T for T tokens. A sample is an entry of the outputs' leading dimension:
        a sequence, not a token. Neither is an approximation of curvature away from a good fit (Kunstner et al.).
        Results say which one they are of.

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        kind : {"exact", "mc", "empirical"}
            Which Fisher matrix.
        of : {"terms", "samples"}, optional
            What gradients "empirical" is made of; default: terms where the likelihood is known, else samples.
        draws : int
            Number of labels drawn for each term by "mc"; a product's cost hardly depends on it.
        seed : int
            Seed of the labels that "mc" draws.

        References
        ----------
        J. Martens, New insights and perspectives on the natural gradient method, JMLR 21 (2020).
        F. Kunstner, L. Balles, P. Hennig, Limitations of the empirical Fisher approximation for natural gradient
        descent, NeurIPS (2019).
        """
        if isinstance(theta, str):
            raise InvalidInputError(f"theta is a parameter vector, got {theta!r}. Pass fisher(kind={theta!r}).")
        if kind not in ("exact", "mc", "empirical"):
            raise InvalidInputError(f"kind must be 'exact', 'mc' or 'empirical', got {kind!r}.")
        if of not in (None, "terms", "samples") or (of and kind != "empirical"):
            raise InvalidInputError(f"of must be 'terms' or 'samples', for kind='empirical'; got {of!r} for {kind!r}.")
        is_known = self._autodiff.likelihood is not None
        if kind == "empirical" and (of == "samples" or (of is None and not is_known)):
            return self._operator(theta, Matrix("empirical fisher of samples"), is_psd=True)
        if not is_known:
            raise InvalidInputError(
                f"fisher(kind={kind!r}) needs to know the likelihood of labels, and the criterion does not tell. Pass "
                f"likelihood='categorical', 'bernoulli' or 'gaussian' to objective() if it is the negative "
                f"logarithm of one; otherwise take ggn() or fisher(kind='empirical', of='samples')."
            )
        if kind == "empirical":
            return self._operator(theta, Matrix("empirical fisher of terms"), is_psd=True)
        if kind == "exact":
            return self._operator(theta, Matrix("fisher"), is_psd=True)
        drawn = Matrix("sampled fisher", draws=checked_count("draws", draws), seed=probes.check_seed(seed))
        return self._operator(theta, drawn, is_psd=True)

    def gradient_covariance(self, theta: Array | None = None) -> LinearOperator:
        r"""Return the covariance of the samples' gradients, a symmetric positive semidefinite operator, n x n.

        .. math:: C = \frac1m \sum_i (g_i - \bar g) (g_i - \bar g)^T = F - \bar g \bar g^T

        with the empirical Fisher matrix F of samples and the gradient of L. A minibatch of B samples, drawn with
        replacement, has a gradient with covariance C / B.

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        """
        return GradientCovariance(self.matrix("empirical fisher", theta), self.gradient(theta))

    def jacobian(self, theta: Array | None = None) -> JacobianOperator:
        """Return the Jacobian of all outputs in the parameters, a rectangular operator.

        Rows are the outputs of all samples, in the order of the data, and in a batch in the order of its flattened
        outputs; batches of weight zero have none. Nothing is divided by the number of samples. ``J.T`` is the
        transpose, and ``J @ J.T`` the empirical neural tangent kernel.

        Parameters
        ----------
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        """
        point = self._at(theta)
        with point.staying():
            return JacobianOperator(point)

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
            Parameters at which it is computed; default: the model's current ones.
        """
        point = self._at(theta)
        with point.staying():
            return DifferenceOperator(point)

    def matrix(self, name: str, theta: Array | None = None) -> LinearOperator:
        """Return a curvature matrix by its name.

        Parameters
        ----------
        name : {"hessian", "ggn", "fisher", "empirical fisher"}
            Which matrix, as `hessian`, `ggn`, ``fisher()`` and ``fisher(kind="empirical", of="samples")`` make it.
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        """
        if name not in MATRICES:
            raise InvalidInputError(f"matrix must be one of {', '.join(map(repr, MATRICES))}, got {name!r}.")
        if name == "empirical fisher":
            return self.fisher(theta, kind="empirical", of="samples")
        found: LinearOperator = getattr(self, name)(theta)
        return found

    def plan(self) -> Plan:
        """Return how products with the Hessian at the current parameters are computed, and what one costs.

        The batches are linearized if they are not yet.
        """
        return self.hessian().plan()

    def release(self) -> None:
        """Free the linearizations that are kept for further products; they are made again when needed."""
        for products in self._kept.values():
            products.release()
        self._kept.clear()

    def _operator(self, theta: Array | None, matrix: Matrix, *, is_psd: bool | None = None) -> CurvatureOperator:
        point = self._at(theta)
        products = None if point.theta is not None else self._kept.get(matrix)
        if products is not None and products.point.fingerprint == point.fingerprint and not products.are_current():
            self._data.weigh_anew()
            products = None
        if products is None or products.point.fingerprint != point.fingerprint:
            products = Products(point, matrix)
            if point.theta is None:
                self._kept[matrix] = products
        return CurvatureOperator(products, is_psd)
