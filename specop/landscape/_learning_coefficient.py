"""learning_coefficient: how many directions the loss sees at a minimum, as Bayesian statistics counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, check_choice, checked_count, checked_number
from specop.krylov.run import Run
from specop.krylov.task import Task
from specop.landscape._ends import outermost
from specop.landscape._langevin import Target, walk
from specop.landscape._minimum import check_minimum, saddle
from specop.objectives.checked_point import checked_point
from specop.results.learning_coefficient import LearningBracket, LearningEstimate
from specop.spectral.counting import PRODUCTS, Signs, signs_of_spectrum
from specop.statistics.chains import effective_draws, scale_reduction
from specop.statistics.estimate import Estimate, check_confidence, estimate_from_samples

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["learning_coefficient"]

# The longest step of a chain, times the largest eigenvalue of m beta H + gamma. If all steps were accepted it had to be
# 0.1 because of the bias, and chains would take ten times as long.
_STEP = 1.0
# Chains agree up to this, and say something with so many draws.
_AGREED, _DRAWS = 1.1, 50.0
# What lies below the threshold is zero to rounding up to this multiple of it.
_ROUNDING = 1e3
# Products that look for a negative eigenvalue before chains are run.
_LOOK = 60


def learning_coefficient(
    objective: Objective,
    method: str = "bracket",
    *,
    threshold: float | None = None,
    samples: int | None = None,
    beta: float | None = None,
    gamma: float = 1.0,
    chains: int = 4,
    steps: int = 1000,
    rtol: float = 1e-6,
    max_matvecs: int | None = None,
    confidence: float = 0.95,
    theta: Array | None = None,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> LearningBracket | LearningEstimate:
    r"""Bound or estimate the local learning coefficient, the effective number of parameters at a minimum, halved.

    The volume in which an analytic loss is within :math:`\epsilon` of its minimum falls as
    :math:`\epsilon^\lambda`, but for logarithms. At a regular minimum of n parameters :math:`\lambda = n/2`, at others
    it is less, a fraction in general. It is that of the loss at hand: that of a population's loss may be smaller.

    "bracket": with the rank r of the Hessian the loss is a sum of r squares and a function of order 4 or more of the
    other directions, in suitable coordinates, so that

    .. math:: \frac r2 \le \lambda \le \frac r2 + \frac{n - r}4 .

    The lower limit is certified as `specop.rank` certifies a rank. The upper one holds if the eigenvalues below the
    threshold are exactly zero: it is given where they are zero to rounding, or where `threshold` says so; where they
    are only small it is n/2, and `condition` tells which.

    "sgld" [1]_: :math:`m \beta \, (E[L] - L(w_0))` under the density proportional to
    :math:`\exp(-m \beta L(w) - \gamma |w - w_0|^2 / 2)`, by chains of Langevin steps. Gradients are those of all data,
    and steps are accepted or rejected, so that neither mini-batches nor step lengths bias it. It is not
    :math:`\lambda` even then: at finite m the expectation is smaller by a part that falls slowly, as 1 / log m for some
    losses, and a large :math:`\gamma` pulls it down further. A second run at :math:`\gamma / 10` stands beside it.

    Parameters
    ----------
    objective : Objective
        Objective of an analytic loss, such as made of linear layers, tanh, GELU and softmax, with the parameters at a
        minimum. The model is left as it is.
    method : {"bracket", "sgld"}
        "bracket" takes what `specop.rank` takes, and about 200 gradients for the checks below. "sgld" takes
        ``2.4 chains * steps`` gradients besides.
    threshold : float, optional
        For "bracket": eigenvalues up to this size are taken for zeros. Default: in the gap that `specop.rank` finds.
    samples : int, optional
        m for "sgld", at least 3; default: the number of samples in the data.
    beta : float, optional
        Inverse temperature for "sgld"; default ``1 / log(samples)``.
    gamma : float
        For "sgld": how strongly chains are kept near the point, positive; in units of ``1 / |w|^2``.
    chains : int
        Number of independent chains for "sgld", at least 2.
    steps : int
        Steps that each chain keeps, at least 20; a fifth as many come before them. The longest step is one over
        the largest eigenvalue of :math:`m \beta H + \gamma`, and shorter where many are rejected.
    rtol : float
        The point counts as a minimum if one step along the gradient would lower the loss by at most ``rtol |L|``.
    max_matvecs : int, optional
        For "bracket": limit on products with the Hessian; default 3000.
    confidence : float
        Probability with which the certificate holds, or with which the intervals cover the truth.
    theta : native vector (n,), optional
        Parameters at which it is computed; default: the model's current ones.
    seed : int
        Seed of all random vectors. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError instead of warning where eigenvalues were not counted, or chains disagree.

    Returns
    -------
    LearningBracket or LearningEstimate
        ``lower`` and ``upper``; or ``estimate``, ``standard_error`` and ``interval``.

    Raises
    ------
    DomainError
        If the loss has kinks close to the point, as that of a ReLU network, so that it is not analytic there; or if the
        point is no minimum: it has a gradient, a negative eigenvalue, or lower losses close by. What is not seen by
        these looks at random directions is not refused.
    InvalidInputError, NonFiniteError
        If an argument does not fit, or the parameters are not finite.

    References
    ----------
    .. [1] E. Lau, Z. Furman, G. Wang, D. Murfet, S. Wei, The local learning coefficient: a singularity-aware
       complexity measure, arXiv:2308.12108 (2023).
    .. [2] S. Watanabe, Algebraic Geometry and Statistical Learning Theory (2009).

    Examples
    --------
    >>> import torch, specop
    >>> def loss(params, batch):
    ...     x, y = params["w"]
    ...     return (x * y - batch[0].mean()) ** 2
    >>> params = {"w": torch.zeros(2, dtype=torch.float64)}
    >>> data = (torch.zeros(4, dtype=torch.float64),)
    >>> objective = specop.objective(loss, params=params, data=data)
    >>> found = specop.landscape.learning_coefficient(objective)
    >>> found.lower, found.upper
    (0.0, 0.5)
    """
    task = Task(
        "learning_coefficient",
        objective.backend,
        objective.processes,
        seed=seed,
        samples=objective.samples,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    check_choice("method", method, ("bracket", "sgld"))
    check_confidence(confidence)
    checked_number("rtol", rtol)
    at = checked_point(objective, theta)
    if method == "bracket":
        return _bracket(
            objective, at, threshold, rtol, max_matvecs, confidence, seed, progress, raise_on_failure=raise_on_failure
        )
    if threshold is not None or max_matvecs is not None:
        raise InvalidInputError("threshold= and max_matvecs= belong to method='bracket'; chains have steps=.")
    m = objective.samples if samples is None else checked_count("samples", samples)
    if m < 3 and beta is None:
        raise InvalidInputError(f"samples={m}: beta = 1/log(samples) needs 3 or more. Pass samples=, or beta=.")
    heat = 1.0 / float(np.log(m)) if beta is None else checked_number("beta", beta, positive=True)
    checked_number("gamma", gamma, positive=True)
    if checked_count("chains", chains) < 2 or checked_count("steps", steps) < 20:
        raise InvalidInputError(f"chains={chains} and steps={steps}: an error needs 2 chains or more, of 20 steps.")
    with task:
        return _estimate(task, objective, at, m, heat, gamma, chains, steps, rtol, confidence)


def _estimate(
    task: Task,
    objective: Objective,
    at: Array,
    m: int,
    beta: float,
    gamma: float,
    chains: int,
    steps: int,
    rtol: float,
    confidence: float,
) -> LearningEstimate:
    hessian = objective.hessian(at)
    ends = outermost(hessian, min(2, objective.n), "BE", None, 1e-2, _LOOK, confidence, task.seed)
    bound = min(float(ends.bounds[0]), float(ends.residuals[0]))
    bound += hessian.precision * float(np.abs(ends.eigenvalues).max())
    if ends.eigenvalues[0] < -bound:
        raise saddle(1, float(ends.eigenvalues[0]), bound)
    curvature = max(float(ends.eigenvalues[-1]), 0.0)
    check_minimum(task, objective, at, curvature, rtol)
    runs, traces = [], []
    for number, pull in enumerate((gamma, gamma / 10)):
        target = Target(objective, at, m * beta, pull)
        longest = _STEP / (m * beta * curvature + pull)
        first, before = number * chains, -(-steps // 5)
        runs.append([walk(task, target, longest, steps, before, first + i) for i in range(chains)])
        traces.append(m * beta * np.stack([one.rises for one in runs[-1]]))
    value, looser = (estimate_from_samples(trace.mean(axis=1), confidence) for trace in traces)
    worst, draws = max(map(scale_reduction, traces)), min(map(effective_draws, traces))
    is_good = worst <= _AGREED and draws >= _DRAWS
    message = (
        f"R-hat of the chains is {worst:.3f}, and they are worth {draws:.0f} independent draws, where at most "
        f"{_AGREED} and at least {_DRAWS:.0f} are asked for: raise steps={steps}, or gamma={gamma:g}, which keeps "
        f"them closer."
    )
    return task.result(
        LearningEstimate,
        estimate=value.estimate,
        standard_error=value.standard_error,
        interval=value.interval,
        confidence=confidence,
        looser=looser,
        gamma=float(gamma),
        beta=beta,
        m=m,
        scale_reduction=worst,
        effective_draws=draws,
        accepted=float(min(np.mean([one.accepted for one in run]) for run in runs)),
        step=float(np.mean([one.step for one in runs[0]])),
        rises=traces[0],
        n=objective.n,
        converged=is_good,
        message="converged" if is_good else message,
    )


def _bracket(
    objective: Objective,
    at: Array,
    threshold: float | None,
    rtol: float,
    max_matvecs: int | None,
    confidence: float,
    seed: int,
    progress: bool,
    *,
    raise_on_failure: bool,
) -> LearningBracket:
    with Run(
        objective.hessian(at),
        "learning_coefficient",
        symmetric=True,
        limit=PRODUCTS if max_matvecs is None else max_matvecs,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    ) as run:
        found = signs_of_spectrum(run, threshold, confidence)
        largest = float(np.abs(found.values).max())
        if found.negative.interval[0] > 0:
            raise saddle(int(found.negative.interval[0]), float(found.values.min()), found.threshold)
        check_minimum(run, objective, at, largest, rtol)
    n = run.n
    low, high = found.positive.interval
    is_zero, condition = _condition(found, threshold, largest, run.A.domain.epsilon, n)
    return run.result(
        LearningBracket,
        lower=low / 2,
        upper=high / 2 + (n - high) / 4 if is_zero else n / 2,
        rank=Estimate(found.positive.estimate, found.positive.standard_error, (low, high), confidence),
        threshold=found.threshold,
        gap=found.gap,
        condition=condition,
        n=n,
        converged=found.is_counted,
        message="converged" if found.is_counted else found.message,
    )


def _condition(found: Signs, threshold: float | None, largest: float, epsilon: float, n: int) -> tuple[bool, str]:
    """Return whether what lies below the threshold may be taken for zero, and what the upper limit depends on."""
    if found.zero.interval[1] == 0:
        return True, "no eigenvalue is zero"
    if threshold is not None:
        return True, f"the upper limit holds if all eigenvalues up to threshold={threshold:g} are exactly zero"
    rounding = _ROUNDING * epsilon * largest * n**0.5
    if found.is_counted and found.gap[0] <= rounding:
        return True, f"the upper limit holds if the eigenvalues that are zero to rounding ({found.gap[0]:.1g}) are zero"
    return False, (
        f"the upper limit is that of a regular minimum: eigenvalues up to {found.gap[0]:.2g} may be small and not "
        f"zero, where rounding is {rounding:.1g}; pass threshold= if they are zero"
    )
