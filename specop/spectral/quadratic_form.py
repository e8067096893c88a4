"""quadratic_form: the curvature v'Av along a direction, on all data or from a part of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, check_choice
from specop.krylov.run import Run
from specop.operators.sample_mean import Group
from specop.results.number import NumberResult
from specop.spectral.goals import PRODUCTS, Goal, checked_goal
from specop.spectral.part.part import DATA, part_of, sum_of_part, told_of_part
from specop.statistics.estimate import check_confidence, within
from specop.statistics.group_sums import GroupSum

__all__ = ["quadratic_form"]


def quadratic_form(
    A: Any,
    v: Array,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    data: str = "all",
    max_matvecs: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> NumberResult:
    r"""Compute the quadratic form :math:`v^\top A v`, for a unit vector the curvature along it.

    Along the gradient g it is :math:`g^\top H g`, how much of a small step's gain curvature takes away.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Square, n x n; symmetric or not.
    v : native vector (n,)
        The direction; of any length but zero.
    rtol : float, optional
        Goal for the standard error, relative to the estimate, with ``data="part"`` alone: it stops at
        ``max(atol, rtol |estimate|)``. With neither, ``rtol = 0.02``, or the whole of `max_matvecs` if that is given.
    atol : float, optional
        Goal for the standard error in units of the form, with ``data="part"`` alone.
    data : {"all", "part"}
        "all" takes one product. "part" is for an A that is a mean over data samples, as ``objective.hessian()``,
        ``ggn()`` and ``fisher()`` are: samples are drawn in groups, in strata by what they may add, as in
        `specop.trace`, until the goal is met. Each is multiplied once, so that it never takes more than one product.
        The interval is one for the form on all samples, and all of its width is the chance of their choice.
    max_matvecs : int, optional
        Limit on products; default 1000.
    confidence : float
        Probability with which the interval covers the form.
    seed : int
        Seed of the choice of samples. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    NumberResult
        With all data, the interval is what rounding in the product may change.

    Raises
    ------
    InvalidInputError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.quadratic_form(np.diag([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 2.0])).estimate
    12.0
    """
    limit = PRODUCTS if max_matvecs is None else max_matvecs
    run = Run(
        A,
        "quadratic_form",
        square=True,
        limit=limit,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    check_choice("data", data, DATA)
    check_confidence(confidence)
    goal = checked_goal(rtol, atol, max_matvecs, 0.02)
    if data == "all" and (rtol is not None or atol is not None):
        raise InvalidInputError(
            "rtol= and atol= are for data='part': with all data one product gives the form exactly. Leave them out, or "
            "pass data='part'."
        )
    run.backend.check_vector(v, run.A.domain, "v")
    with run:
        (length,) = run.backend.to_host(run.backend.norm(v))
        if not 0 < length < np.inf:
            raise InvalidInputError(f"v must have a length above zero that is finite, got {float(length)}.")
        if data == "part":
            return _of_part(run, v, goal, confidence)
        image = run.multiply(v)
        form, size = run.to_host(run.backend.dot(v, image), run.backend.norm(image))
    bound = run.A.precision * float(length) * float(size)
    return run.result(
        NumberResult,
        quantity="v'Av",
        **vars(within(float(form), bound, confidence)),
        method="exact",
        estimates=np.zeros(0),
        converged=True,
        message="converged",
    )


def _of_part(run: Run, v: Array, goal: Goal, confidence: float) -> NumberResult:
    part = part_of(run, run.seed)

    def measure(_: int, group: Group) -> tuple[float, float]:
        (form,) = run.to_host(run.backend.dot(v, run.multiply_group(group, v)))
        return group.share * float(form), 0.0

    found = sum_of_part(part, GroupSum(part.strata, is_noisy=False), goal, confidence, measure)
    remedy = "Raise max_matvecs, rtol or atol, or leave data= out."
    return run.result(NumberResult, quantity="v'Av", **told_of_part(run, found, goal, remedy), method="groups")
