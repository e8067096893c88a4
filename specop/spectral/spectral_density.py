"""spectral_density: stochastic Lanczos quadrature for the whole spectrum."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np

from specop.errors import InvalidInputError, check_choice, checked_number
from specop.krylov.known import checked_deflation, random_beside
from specop.krylov.run import Run
from specop.krylov.short_recurrence import ShortRecurrence
from specop.krylov.space import LARGEST_BASIS, KrylovSpace
from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult
from specop.results.result import Result
from specop.results.spectral_density import SpectralDensity
from specop.spectral.fitting import may_store
from specop.spectral.part.density import density_of_part
from specop.spectral.part.part import DATA
from specop.statistics.estimate import check_confidence
from specop.statistics.measure import GaussRule
from specop.statistics.numbers import Floats
from specop.statistics.transport import known_weights, open_transport, transport_errors

__all__ = ["STEPS", "quadrature_fields", "spectral_density"]

STEPS = 30
"""Lanczos steps for each random vector where nobody says."""

_PRODUCTS = 1000
# Before, the spread that errors are relative to is hardly known.
_FEWEST_STEPS = 8


def spectral_density(
    A: Any,
    *,
    steps: int | None = None,
    probes: int | None = None,
    rtol: float | None = None,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    stored_basis: bool | None = None,
    data: str = "all",
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> SpectralDensity:
    r"""Estimate the density of all eigenvalues of a symmetric operator.

    Stochastic Lanczos quadrature [1]_: m steps from a random unit vector give Ritz values :math:`\theta_j` with
    weights :math:`\tau_j = S_{0j}^2` that integrate polynomials up to degree 2m - 1 exactly for that vector, and on
    average over vectors give the spectral density.

    A Ritz value whose residual is below 1e-3 of it is an eigenvalue, and a simple eigenvalue's true weight is known:
    1/n. It gets that weight, and the rest of the probe's weights are scaled to the remaining mass. This takes no
    products and removes most of the variance that outliers cause. Copies of a multiple eigenvalue are not counted by
    it; the intervals of `SpectralDensity.count` allow for them, and `deflate` counts them.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    steps : int, optional
        Lanczos steps for each probe, at most n; default ``min(30, n)``, or as many as `rtol` takes.
    probes : int, optional
        Number of random vectors; default 1, or as many as `rtol` takes or `max_matvecs` allows. With one, integrals
        have no error bar.
    rtol : float, optional
        Goal for the Wasserstein-1 distance to the true spectrum, relative to its spread: half of it is for what steps
        can improve, half for what probes can. The distance is estimated, see Notes.
    max_matvecs : int, optional
        Limit on all products; default 1000 with `rtol`, else what steps and probes take.
    deflate : EigenResult, optional
        Known eigenpairs of A. They enter with weight 1/n each, multiplicity and all, and the quadrature is spent on
        the rest. One product shows whether they belong to A; those of another matrix are refused.
    stored_basis : bool, optional
        Whether to hold a vector for each step, to which later ones are made orthogonal, or three vectors in all.
        Default: whether they fit into the memory that is free on the device; the result says where they did not. Both
        take the same products. With three vectors eigenvalues that have converged are found again, which takes some of
        the steps: the distance to the true spectrum may be several times as large, and said to be. Copies of
        a multiple eigenvalue are not told from these.
    data : {"all", "part"}
        Whether every product is to be that of all data samples. "part" is for an A that is a mean over samples, as
        ``objective.hessian()``, ``ggn()`` and ``fisher()`` are: the density is that of the samples of two parts, drawn
        as in `specop.trace`, and eigenvalues of all samples are at most the result's `sampling_error` away, as a root
        of the mean square over all of them, by the theorem of Hoffman and Wielandt: that is the Frobenius norm of the
        difference of both matrices over the root of n, which the parts' difference tells. Parts are doubled until it is
        1 percent of the spread or, with `rtol`, fits into that with the error of the density. Limits of `cdf_interval`
        and `count` hold for all samples, and `integrate` is wider by the steepest slope of f times the distance; a
        mean eigenvalue is known better from `specop.trace` with ``data="part"``. `steps` and `probes` are those of the
        part's matrix, whose products count as their part of one.
    confidence : float
        Probability with which the intervals that the result returns cover the truth.
    seed : int
        Seed of the random vectors. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    SpectralDensity
        Nodes and weights; nothing is cut off or put on a grid.

    Raises
    ------
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError
    NotEnoughMemoryError
        With ``stored_basis=True``, if it does not fit.
    NotConvergedError
        Only with ``raise_on_failure``.

    Notes
    -----
    A node's mass may lie anywhere within its residual, or half way to its neighbours where that is nearer: summed over
    all nodes this bounds the transport that quadrature leaves open. The share F of a random vector's weight below a
    point has the variance 2 F (1 - F) / (n + 2), whose root is integrated over the part of the spectrum without
    recognized eigenvalues. The sum of both is the result's ``error``.

    Where `steps` and `probes` are left free, all eigenvalues are found instead if that takes fewer products, and each
    has the weight 1/n: for n up to 30, and where `rtol` would take more than n.

    The basis holds one row of length n for each step of a probe; probes come one after the other.

    References
    ----------
    .. [1] S. Ubaru, J. Chen and Y. Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIAM J. Matrix
       Anal. Appl. 38 (2017), 1075-1099.

    Examples
    --------
    >>> import numpy as np, specop
    >>> density = specop.spectral_density(np.diag(np.linspace(0, 1, 500)), probes=4)
    >>> bool(abs(density.cdf(0.5) - 0.5) < 0.1)
    True
    """
    run = Run(
        A,
        "spectral_density",
        symmetric=True,
        limit=_PRODUCTS if max_matvecs is None and rtol is not None else max_matvecs,
        seed=seed,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    check_confidence(confidence)
    check_choice("data", data, DATA)
    if rtol is not None:
        checked_number("rtol", rtol, positive=True)
    n = run.n
    if data == "part":
        if deflate is not None:
            raise InvalidInputError("deflate= takes eigenpairs of all data out, which data='part' does not multiply.")
        solve = functools.partial(spectral_density, steps=steps, probes=probes, confidence=confidence, seed=seed)
        own = None if rtol is None else 0.8 * rtol
        return _of_part(run, rtol, confidence, lambda part, limit: solve(part, max_matvecs=limit, rtol=own))
    run.total = (steps or min(STEPS, n)) * (probes or 1) if run.limit is None else None
    with run:
        vectors, known = checked_deflation(run, deflate)
        most_steps, most_probes = _checked_budget(run, n - len(known), steps, probes, rtol)
        is_free = steps is None and probes is None and len(known) < n <= run.left and n * n <= LARGEST_BASIS
        is_free &= stored_basis is not False
        may_be_all = is_free and (rtol is not None or n <= STEPS)
        rows = n if may_be_all else len(known) + min(most_steps, run.left)
        space: KrylovSpace | ShortRecurrence
        if may_store(run, rows, stored_basis):
            space = KrylovSpace(run, n if is_free else len(known) + most_steps)
        else:
            space, is_free = ShortRecurrence(run, vectors, known), False
        rules: list[GaussRule] | None = None
        if not (is_free and n <= STEPS):
            if deflate is not None and isinstance(space, KrylovSpace):
                space.hold(vectors, known, deflate.residuals)
            rules = _probed(space, known, most_steps, most_probes, rtol, probes is None, is_free)
        if rules is None:
            assert isinstance(space, KrylovSpace)
            known, rules = space.complete(), []
        run.warn_of_noise()
    error = sum(transport_errors(rules, known, n - len(known)))
    if isinstance(space, ShortRecurrence):
        error += space.moved
    taken = max((len(rule.nodes) for rule in rules), default=n)
    converged = rtol is None or error <= rtol
    message = f"{len(rules)} probe(s) of {taken} steps" if rules else "all eigenvalues are known"
    if not converged:
        message = (
            f"spectral_density stopped after {run.products} products ({message}) at an estimated distance of "
            f"{error:.1e} of the spread, above rtol={rtol:g}. Raise rtol or max_matvecs, leave steps and probes free, "
            f"or pass deflate=specop.eigsh(A) to take the outliers out."
        )
    return run.result(
        SpectralDensity,
        **quadrature_fields(rules, known, n),
        n=n,
        rounding=space.error_floor,
        steps=taken,
        error=error,
        orthogonal=isinstance(space, KrylovSpace),
        confidence=confidence,
        converged=converged,
        message=message,
    )


def _of_part(
    run: Run, rtol: float | None, confidence: float, solve: Callable[[LinearOperator, int | None], SpectralDensity]
) -> SpectralDensity:
    with run:
        found = density_of_part(run, rtol, confidence, solve)
    if found is None:
        raise InvalidInputError(
            f"max_matvecs={run.limit} is too little for a part of the {run.samples} samples. Raise it, or leave data= "
            f"out."
        )
    density = found.density
    message = f"{found.samples_used} of {run.samples} samples, {density.message}"
    if not found.is_close:
        message = (
            f"spectral_density stopped after {run.products} products ({message}) at an estimated distance of "
            f"{found.error:.1e} of the spread, of which {found.relative_distance:.1e} is to that of all "
            f"samples. Raise max_matvecs or rtol, leave steps and probes free, or leave data= out."
        )
    own = {item.name: getattr(density, item.name) for item in fields(density)[len(fields(Result)) :]}
    own |= {"error": found.error, "sampling_error": found.distance, "samples_used": found.samples_used}
    return run.result(SpectralDensity, **own, converged=found.is_close, message=message)


def _checked_budget(run: Run, rest: int, steps: int | None, probes: int | None, rtol: float | None) -> tuple[int, int]:
    """Return the largest numbers of steps for the unknown part of the spectrum, and of probes."""
    n, left = run.n, max(1, run.left)
    if steps is None:
        steps = min(n, left, STEPS if rtol is None else n)
    if probes is None:
        probes = left if rtol is not None else 1 if run.limit is None else max(1, left // max(1, steps))
    elif rtol is None and steps * probes > left:
        raise InvalidInputError(
            f"{probes} probes of {steps} steps take {steps * probes} products, above max_matvecs={run.limit}."
        )
    if not 1 <= steps <= n or probes < 1:
        raise InvalidInputError(f"steps must lie in 1..n={n} and probes be positive, got {steps!r} and {probes!r}.")
    return min(steps, rest), probes


def _probed(
    space: KrylovSpace | ShortRecurrence,
    known: Floats,
    steps: int,
    probes: int,
    rtol: float | None,
    stops_early: bool,
    may_turn: bool,
) -> list[GaussRule] | None:
    """Return the rules of as many probes as it takes; None if all eigenvalues take fewer products.

    The space is then left with what can be a part of them.
    """
    run, first, rest = space.run, len(known), space.n - len(known)
    rules: list[GaussRule] = []
    taken_by_first = 0

    def is_enough() -> bool:
        taken = space.steps - first
        if taken >= steps or space.is_closed:
            return True
        # All probes take as many steps as the first one needed.
        # The decomposition takes more time as the run grows, and its outcome changes less.
        if rules or rtol is None or taken < _FEWEST_STEPS or taken % max(1, taken // 10):
            return False
        return open_transport([space.gauss_rule(first)], known, rest) <= rtol / 2

    while rest and len(rules) < probes:
        space.start(random_beside(run, first, len(rules)))
        while not is_enough():
            space.expand()
            run.update()
        rules.append(space.gauss_rule(first))
        if rtol is not None:
            steps = taken_by_first = taken_by_first or space.steps - first
            errors = transport_errors(rules, known, rest)
            if sum(errors) <= rtol and stops_early:
                break
            reusable = steps if len(rules) == 1 and first == 0 else 0
            if may_turn and _turns_exact(run, errors, rtol, len(rules), steps, reusable):
                space.truncate(space.size if reusable else 0)
                return None
        space.truncate(first)
        if steps > run.left:
            break
    return rules


def _turns_exact(run: Run, errors: tuple[float, float], rtol: float, probes: int, steps: int, reusable: int) -> bool:
    """Whether all eigenvalues take fewer products than the probes that the goal still needs."""
    by_steps, by_chance = errors
    needed = probes * (by_chance / (rtol - by_steps)) ** 2 - probes if by_steps < rtol else np.inf
    return run.left >= run.n - reusable < needed * steps


def quadrature_fields(rules: list[GaussRule], known: Floats, n: int) -> dict[str, Any]:
    """Return the fields of a density that describe its nodes."""
    rest = n - len(known)
    each = [GaussRule(known, np.full(len(known), 1.0 / n), np.zeros(len(known))), *rules]
    shared = [known_weights(rule, rest) * (rest / n) / len(rules) for rule in rules]
    nodes = np.concatenate([rule.nodes for rule in each])
    order = np.argsort(nodes, kind="stable")
    return {
        "nodes": nodes[order],
        "weights": np.concatenate([each[0].weights, *shared])[order],
        "probe": np.concatenate([np.full(len(rule.nodes), index) for index, rule in enumerate(each, -1)])[order],
        "gauss_weights": np.concatenate([rule.weights for rule in each])[order],
        "couplings": np.concatenate([rule.couplings for rule in each])[order],
    }
