"""The covariance of selected samples beside the inverse Hessian."""

from __future__ import annotations

import math

from specop.errors import InvalidInputError, checked_number
from specop.plotting.axes import Axes, Place
from specop.results.fields import column, error_of, estimated, record
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.results.tables import Column
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats

__all__ = ["CovarianceResult"]

# The slope of log variance over log eigenvalue counts as that of the inverse up to this deviation from -1.
_CLOSE = 0.1


@record
class CovarianceResult(Plotted, Result):
    r"""What the covariance of the best of several samples around a minimum says of the Hessian.

    Variances are those along the Hessian's eigenvectors, of distances from the point, in units of sigma^2.

    `plot` draws variances against eigenvalues, with the fit and the inverse.

    Attributes
    ----------
    eigenvalues : ndarray (k,)
        Largest eigenvalues of the Hessian, descending.
    variances : ndarray (k,)
        Variance of winners along each eigenvector; 1 without selection.
    errors : ndarray (k,)
        Standard errors of the variances.
    low_variances : ndarray (k,)
        Variance of as many samples of lowest loss.
    t : Estimate
        The t of :math:`\sigma^2 (I + 2 t \sigma^2 H)^{-1}`, fitted to the winners; in units of 1 / loss.
    low_t : Estimate
        The t that fits the samples of lowest loss.
    slope : Estimate
        Slope of log variance over log eigenvalue: -1 for the inverse, 0 for no relation.
    constant : Estimate
        c of :math:`c H^{-1}`, the mean over eigenvectors of eigenvalue times variance.
    limit : Estimate
        What c is for many offspring: twice the mean rise of winners over n.
    alignment : float
        Cosine between the winners' covariance and the inverse Hessian, both on the span of the eigenvectors.
    isotropic_alignment : float
        Cosine between the identity and the inverse Hessian on that span: what is reached without looking at any loss.
    quadratic_share : float
        Mean rise of some samples, without the gradient's part, over that of the quadratic model: 1 where it holds as
        far out as sigma, more where units switch in between.
    rank : int
        Largest rank that the covariance of so many winners can have; the inverse has rank n.
    winners, offspring : int
        How many samples are kept, and out of how many each is the best.
    sigma : float
        Standard deviation of the samples around the point.
    rtol : float
        Relative error of the largest eigenvalue that `needed` is for.
    eigen_products : int
        Products that the eigenvalues took.
    eigen_seconds : float
        Seconds that the eigenvalues took.
    loss_seconds : float
        Time that the loss of one sample took, its drawing included.
    n : int
        Number of parameters.
    """

    eigenvalues: Floats = column("eigenvalue", ".4g")
    variances: Floats = column("variance of winners", ".4g")
    errors: Floats = error_of("variances", "standard error", ".1e")
    low_variances: Floats = column("of lowest", ".4g")
    t: Estimate = estimated()
    low_t: Estimate = estimated()
    slope: Estimate = estimated()
    constant: Estimate = estimated()
    limit: Estimate = estimated()
    alignment: float
    isotropic_alignment: float
    quadratic_share: float
    rank: int
    winners: int
    offspring: int
    sigma: float
    rtol: float
    eigen_products: int
    eigen_seconds: float
    loss_seconds: float
    n: int

    @property
    def is_inverse(self) -> bool | None:
        """Whether variances fall with eigenvalues as those of the inverse do; None where too few winners tell."""
        if math.isnan(self.slope.estimate):
            return True
        low, high = self.slope.interval
        if low > -1.0 + _CLOSE or high < -1.0 - _CLOSE:
            return False
        return True if high < -0.5 else None

    @property
    def predicted(self) -> Floats:
        """Variances of the fit with t, an array (k,)."""
        return 1.0 / (1.0 + 2.0 * self.t.estimate * self.sigma**2 * self.eigenvalues)

    @property
    def needed(self) -> float:
        """How many losses give the largest eigenvalue to within `rtol`; infinite where t is not positive."""
        return self.losses_needed(self.rtol)

    def losses_needed(self, rtol: float) -> float:
        r"""Return how many losses give the largest eigenvalue to a relative standard error, were t known.

        A variance v of w winners has the relative error :math:`\sqrt{2/w}`, and the eigenvalue
        :math:`(1/v - 1) / (2 t \sigma^2)` that over 1 - v: a small t takes many.

        Parameters
        ----------
        rtol : float
            The error, relative to the eigenvalue.
        """
        told = 1.0 - float(self.predicted[0])
        if not told > 0:
            return float("inf")
        return math.ceil(2.0 / (checked_number("rtol", rtol, positive=True) * told) ** 2) * float(self.offspring)

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.covariance import plot_covariance

        some = self.eigenvalues > 0
        if not some.any():
            raise InvalidInputError("no eigenvalue is positive: there is no inverse to draw.")
        return plot_covariance(
            self.eigenvalues[some],
            self.variances[some],
            self.errors[some],
            fit=2.0 * self.t.estimate * self.sigma**2,
            inverse=self.constant.estimate / self.sigma**2,
            title=f"{self.winners} winners of {self.offspring}: slope {self.slope.estimate:.2f}, of the inverse -1",
            place=place,
        )

    def _headline(self) -> str:
        best = f"the covariance of {self.winners} winners of {self.offspring}"
        if self.is_inverse is None:
            return f"{best} may be the inverse Hessian or not: more winners would tell"
        if self.is_inverse:
            constant = f"{self.constant.estimate:.3g} +- {self.constant.standard_error:.1g}"
            return f"{best} is {constant} times the inverse Hessian"
        t = f"{self.t.estimate:.3g} +- {self.t.standard_error:.1g}"
        return f"{best} is not the inverse Hessian but near sigma^2 (I + 2 t sigma^2 H)^-1, t = {t}"

    def _lines(self) -> list[str]:
        slope = f"log-log slope {self.slope.estimate:.3g} +- {self.slope.standard_error:.1g}, -1 for the inverse; "
        lines = [
            f"{'' if math.isnan(self.slope.estimate) else slope}cosine with the inverse {self.alignment:.3f}, of the "
            f"identity {self.isotropic_alignment:.3f}; rank at most {self.rank:,} of {self.n:,}",
            f"the largest eigenvalue to {100 * self.rtol:g} % by variances takes about {self.needed:.2g} losses, "
            f"{self.needed * self.loss_seconds:.2g} s; {len(self.eigenvalues)} eigenvalues took {self.eigen_products} "
            f"products, {self.eigen_seconds:.2g} s",
        ]
        if not 0.8 <= self.quadratic_share <= 1.25:
            lines.append(
                f"losses of samples rise {self.quadratic_share:.2g} times as far as the quadratic model: lower sigma, "
                f"or see in it units that switch"
            )
        return [*super()._lines(), *lines]

    def _shown(self) -> dict[str, Column]:
        fit = {"predicted": Column(self.predicted, "of the fit", ".4g")}
        return super()._shown() | fit
