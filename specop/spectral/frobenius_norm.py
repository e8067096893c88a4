"""frobenius_norm: the root of the sum of all squared entries."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, check_choice
from specop.krylov.known import Complement
from specop.krylov.run import Run
from specop.results.eigen import EigenResult
from specop.results.norm import NormResult
from specop.spectral.estimation import Estimation
from specop.spectral.goals import PRODUCTS, Goal, checked_goal, told, unit_products
from specop.spectral.part.frobenius import frobenius_of_part
from specop.spectral.part.part import DATA, DEFLATE, told_of_part
from specop.spectral.sampling import hutchinson
from specop.statistics.estimate import check_confidence, root_of_mean, unknown
from specop.statistics.numbers import Floats

__all__ = ["frobenius_norm"]

# The squared length of a product is as skew as chi-square with one degree of freedom where one eigenvalue dominates;
# with half as many probes intervals at 95 % covered the truth in 90 of 100 runs only.
_FIRST = 16
_METHODS = ("auto", "hutchinson", "exact")


def frobenius_norm(
    A: Any,
    *,
    method: str = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    data: str = "all",
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> NormResult:
    r"""Estimate the Frobenius norm of an operator, with a confidence interval.

    For a vector z of random signs, :math:`\|A z\|^2` has the mean :math:`\|A\|_F^2`. The interval is Student's for the
    logarithm: it is never negative, and it covers where a few eigenvalues dominate and the samples are skew. For what
    skewness the logarithm leaves, the standard error has an allowance, as in `trace`.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Operator of any shape.
    method : {"auto", "hutchinson", "exact"}
        "auto" reads the entries of an array, a SciPy sparse matrix or a `DiagonalOperator`, without a product, if a
        tolerance or nothing is given. "exact" multiplies n unit vectors; "auto" does so for n up to 16, and where the
        limit allows that and there is no tolerance. With a tolerance, and n within the limit, probes after the first 16
        are orthogonal to each other, as in `trace`: n of them leave no error.
    rtol : float, optional
        Goal for the standard error, relative to the norm. With neither `rtol` nor `atol` it is 0.02, or the whole of
        `max_matvecs` is used if that is given.
    atol : float, optional
        Goal for the standard error in units of the norm; the larger of both goals counts.
    max_matvecs : int, optional
        Limit on all products; default 1000.
    deflate : EigenResult, optional
        Known eigenpairs of a symmetric A. They enter exactly, and what is left is much less skew. One product shows
        whether they belong to A; those of another matrix are refused.
    data : {"all", "part"}
        Whether every product is to be that of all data samples. "part" is for an A that is a mean over samples, as
        ``objective.hessian()``, ``ggn()`` and ``fisher()`` are: each random vector is multiplied with a part of its
        own of at first 256 samples, sorted as in `specop.trace`. A part's matrix has a larger norm than that of all
        samples, on average, and pairs of its groups are weighted so that the estimate has not. The result's
        `sampling_error` is the part of the error that the choice of samples has, and parts are doubled while it is the
        larger one. Groups count as their part of a product, and about 16 vectors are held. Eigenpairs in `deflate` may
        then be those of any similar matrix.
    confidence : float
        Probability with which the interval covers the norm.
    seed : int
        Seed of the probes. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    NormResult

    Raises
    ------
    InvalidInputError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.frobenius_norm(np.ones((3, 4)))
    Frobenius norm 3.4641 +- 0 (95 % interval 3.4641 to 3.4641), exact, 0 products, 0.00 s
    """
    limit = PRODUCTS if max_matvecs is None else max_matvecs
    run = Run(A, "frobenius_norm", limit=limit, seed=seed, progress=progress, raise_on_failure=raise_on_failure)
    check_choice("method", method, _METHODS)
    check_choice("data", data, DATA)
    if data == "part" and method == "exact":
        raise InvalidInputError("method='exact' multiplies n unit vectors with all data: leave it or data='part' out.")
    check_confidence(confidence)
    goal = checked_goal(rtol, atol, max_matvecs, 0.02)
    with run:
        if data == "part":
            return _of_part(run, goal, confidence, deflate)
        square = run.A.read_square() if goal.may_read(method, deflate) else None
        estimation = _Squares(Complement(run, deflate), goal, confidence, may_turn=method == "auto")
        if square is not None and 0.0 < square < np.inf:
            estimation.settle(square**0.5, "")
            return _result(run, estimation, goal, "exact", "the entries of the matrix were read")
        is_exact = estimation.space.dimension == 0 or goal.begins_exact(run, method, _FIRST)
        if not is_exact:
            used, message = hutchinson(estimation)
            is_exact = estimation.turns_exact()
        if is_exact:
            total = _exact(run) if estimation.space.dimension else float(np.sqrt(estimation.known))
            used, message = estimation.settle(total, f"n={run.n} products give the norm exactly")
    return _result(run, estimation, goal, used, message)


def _result(run: Run, estimation: _Squares, goal: Goal, used: str, message: str) -> NormResult:
    remedy = "Raise max_matvecs or rtol, or pass deflate=specop.eigsh(A) to take the largest eigenvalues out."
    return run.result(
        NormResult,
        quantity="Frobenius norm",
        **told(run, estimation.value, goal.is_budget or estimation.accepted, message, remedy),
        method=used,
        estimates=estimation.samples,
    )


def _of_part(run: Run, goal: Goal, confidence: float, deflate: EigenResult | None) -> NormResult:
    found = frobenius_of_part(run, goal, confidence, deflate)
    return run.result(
        NormResult, quantity="Frobenius norm", **told_of_part(run, found, goal, DEFLATE), method="hutchinson"
    )


class _Squares(Estimation):
    """Squared lengths of products with random signs, whose mean is the squared norm."""

    fewest = _FIRST

    @property
    def known(self) -> float:
        """Sum of the squares of the known eigenvalues."""
        return float(np.sum(self.space.values**2))

    def measure(self, probe: Array) -> Array:
        """Return the length of a product."""
        return self.run.backend.norm(self.space.multiply(probe))

    def look(
        self, samples: Floats, error: float | None = None, rounding: float = 0.0, concentration: float = 0.0
    ) -> bool:
        """Take these as all lengths so far; return whether they suffice."""
        self.run.check_size(float(samples.max()))
        self.samples = self.known + samples**2
        self.value = root_of_mean(self.samples, self.confidence, self.goal.looks, *self.spanned)
        if self.spans:
            self.settle(self.value.estimate, "")
            return True
        self._scatter = root_of_mean(self.samples, self.confidence).standard_error
        if self.agree_by_chance(self.samples):
            self.value = unknown(self.value.estimate, 0.0, self.confidence)
        self.run.update(f"{self.value.estimate:.5g} +- {self.value.standard_error:.2g}")
        return self.accepted


def _exact(run: Run) -> float:
    lengths = run.scalars([run.backend.norm(product) for _, product in unit_products(run)])
    run.check_size(float(lengths.max()))
    return float(np.linalg.norm(lengths))
