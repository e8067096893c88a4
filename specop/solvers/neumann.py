"""lissa: inverses by Neumann's series, exact and from mini-batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.errors import DomainError, InvalidInputError, NonFiniteError
from specop.krylov.progress import progress_bar
from specop.operators.operator import LinearOperator
from specop.operators.scipy import aslinearoperator
from specop.results.lissa import LissaResult
from specop.results.result import versions
from specop.solvers.equations import Equations, Outcome
from specop.spectral.eigsh import eigsh

__all__ = ["lissa", "neumann_series"]

# Random numbers that choose batches come from streams of their own, one for each repeat.
_FIRST_STREAM = 1 << 33
# Relative residual of the largest eigenvalue; its error is about the square of that.
_TOL = 0.1
# Steps between looks at whether a run diverges, each of which waits for the device.
_LOOKS = 10


def lissa(
    operators: LinearOperator | Sequence[LinearOperator],
    b: Any,
    *,
    damping: float,
    scale: float | None = None,
    steps: int = 1000,
    repeats: int = 1,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> LissaResult:
    r"""Estimate (H + damping * scale * I)^-1 b by Neumann's series with one mini-batch in each step (LiSSA).

    From x = b it iterates [1]_ [2]_

    .. math:: x \leftarrow b + (I - H_i / \mathtt{scale} - \mathtt{damping} \, I) \, x

    with the matrix :math:`H_i` of a batch drawn at random, and returns the mean of x / scale over the repeats. At rest
    :math:`(H / \mathtt{scale} + \mathtt{damping}) x = b`, so what is inverted is the mean H of all batches plus
    ``damping * scale`` times the identity: **the damping counts in units of scale**. For a damping d of H itself pass
    ``damping = d / scale``.

    It converges only if :math:`0 < h / \mathtt{scale} + \mathtt{damping} < 2` for the eigenvalues h of every batch. The
    largest are estimated before it runs, by a few products with each, and a scale that is too small is refused. It
    takes 1 / damping steps and more where `solve` takes the square root of that: it is here because published
    influence functions use it.

    Parameters
    ----------
    operators : LinearOperator or sequence of LinearOperator
        H, or those of the mini-batches, such as ``[part.hessian() for part in objective.batches()]``. With a single
        one nothing is random but the order, which is then none: it is the plain series.
    b : native vector (n,) or parameter structure
    damping : float
        Positive, in units of `scale`.
    scale : float, optional
        Default: the largest eigenvalue seen in any batch, with its error bound, over ``1 - damping``.
    steps, repeats : int
        Products in each run, and independent runs that are averaged.
    weights : sequence of float, optional
        Share of each batch in H; default: the operators' numbers of samples, where they have any, otherwise equal. A
        batch is drawn with a probability proportional to it. Where the loss counts something else than samples, such
        as tokens, pass that.
    seed : int
        Of the draws.
    progress : bool
        As in `eigsh`.

    Returns
    -------
    LissaResult
        With the standard error over repeats, and the true residual, by one pass over all batches.

    Raises
    ------
    InvalidInputError
        For a damping or scale with which it cannot converge; the text has the scale that would work.
    DomainError
        If a run diverges because a batch has an eigenvalue below ``-damping * scale``.

    References
    ----------
    .. [1] N. Agarwal, B. Bullins and E. Hazan, Second-order stochastic optimization for machine learning in linear
       time, JMLR 18 (2017).
    .. [2] P. W. Koh and P. Liang, Understanding black-box predictions via influence functions, ICML (2017).

    Examples
    --------
    >>> import numpy as np, specop
    >>> H = specop.aslinearoperator(np.diag([1.0, 4.0]))
    >>> result = specop.lissa(H, np.ones(2), damping=0.1, scale=10.0)
    >>> result.x.round(6)  # of H + I
    array([0.5, 0.2])
    """
    started = time.perf_counter()
    parts = [aslinearoperator(part) for part in (operators if isinstance(operators, (list, tuple)) else [operators])]
    shares = _checked_shares(parts, weights)
    if not (np.isfinite(damping) and 0 < damping < 2):
        raise InvalidInputError(f"damping must lie between 0 and 2, in units of scale, got {damping!r}.")
    for name, value in (("steps", steps), ("repeats", repeats)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InvalidInputError(f"{name} must be a positive integer, got {value!r}.")
    first, backend, seed = parts[0], parts[0].backend, probes.check_seed(seed)
    structured = None if first.backend.shape(b) else first.flatten(b)
    vector = b if structured is None else structured
    backend.check_vector(vector, first.domain, "b")
    (length,) = backend.to_host(backend.norm(vector))
    if not np.isfinite(length):
        raise InvalidInputError(f"b must be finite; its norm is {float(length)}.")

    with ExitStack() as stack, progress_bar(progress, "lissa", steps * repeats) as update:
        for part in parts:
            stack.enter_context(part.session())
        largest, products = _largest(parts, seed)
        scale = _checked_scale(largest, damping, scale)
        runs = []
        for repeat in range(repeats):
            x = backend.copy(vector)
            for step, chosen in enumerate(_draws(shares, steps, seed, repeat), start=1):
                x = _stepped(parts[chosen], x, vector, damping, scale)
                update(repeat * steps + step, f"repeat {repeat + 1}")
                if step % _LOOKS == 0 or step == steps:
                    _check_bounded(x, float(length), damping, scale, first)
            runs.append(backend.scale_(x, 1.0 / scale))
            products += steps
        mean = _mean(runs, backend)
        rest = backend.axpy_(backend.copy(vector), -damping * scale, mean)
        for part, share in zip(parts, shares, strict=True):
            rest = backend.axpy_(rest, -float(share), part._matvec(mean))
        products += len(parts)
        residual, *lengths = backend.to_host(backend.norm(rest), *(backend.norm(x) for x in runs))
        standard_error = _standard_error(runs, mean, backend)
    counts = [part.samples for part in parts]
    return LissaResult(
        solution=mean,
        standard_error=standard_error,
        residual=float(residual),
        lengths=np.array([float(value) for value in lengths]),
        damping=float(damping),
        scale=float(scale),
        steps=int(steps),
        repeats=int(repeats),
        matvecs=products,
        converged=True,
        message="all steps were taken",
        samples=None if None in counts else sum(count for count in counts if count is not None),
        seed=seed,
        seconds=time.perf_counter() - started,
        versions=versions(backend.name),
        unflatten=None if structured is None else first.unflatten,
    )


def neumann_series(system: Equations, column: int, allowance: int) -> Outcome:
    r"""Improve a column's solution by :math:`x \leftarrow x + (b - A x) / \lambda_{max}`, Neumann's series.

    For a positive semidefinite A the residual never grows. Where it does, rounding is all that is left of it, or
    there is an eigenvalue that is not positive, and the residual has become a direction of such curvature.
    """
    last = system.products + allowance
    only, goal = range(column, column + 1), float(system.goals[column])
    backend = system.backend
    estimate = eigsh(system.operator, 1, which="LA", tol=_TOL, max_matvecs=max(1, min(allowance, 100)))
    system.products += estimate.matvecs
    scale, steps = float(estimate.eigenvalues[0] + estimate.residuals[0]), 0
    (residual,) = system.residuals(only)
    norm = previous = float(system.norms[column])
    while norm > goal and system.products < last:
        if scale <= 0 or norm > (1 + 1e3 * system.operator.precision) * previous:
            unit = backend.scale_(residual, 1.0 / norm)
            (curvature,) = system.scalars(backend.dot(unit, system.multiply(unit)))
            if curvature > 100 * system.operator.precision * scale:
                return Outcome("rounding", steps)
            return Outcome("curvature", steps, float(curvature), unit)
        system.move(column, 1.0 / scale, residual)
        steps += 1
        previous = norm
        (residual,) = system.residuals(only)
        norm = float(system.norms[column])
        system.report(system.norms[only.start : only.stop], system.goals[only.start : only.stop])
    return Outcome("converged" if norm <= goal else "limit", steps)


def _checked_shares(parts: list[LinearOperator], weights: Sequence[float] | None) -> NDArray[np.float64]:
    if not parts:
        raise InvalidInputError("operators is empty: pass one for each mini-batch.")
    for part in parts:
        if part.domain != parts[0].domain or part.shape != parts[0].shape or part.is_symmetric is False:
            raise InvalidInputError(f"all operators must be symmetric and alike: {parts[0]!r} and {part!r} are not.")
    counts = [part.samples for part in parts]
    known: Any = weights
    if weights is None:
        known = [1.0] * len(parts) if None in counts else counts
    shares = np.asarray(known, dtype=float)
    if shares.shape != (len(parts),) or not (np.isfinite(shares).all() and (shares > 0).all()):
        raise InvalidInputError(f"weights must be {len(parts)} positive numbers, one for each operator, got {known!r}.")
    return shares / shares.sum()


def _largest(parts: list[LinearOperator], seed: int) -> tuple[float, int]:
    """Return an upper estimate of the largest eigenvalue of any batch, and the products that it took."""
    largest, products = 0.0, 0
    for part in parts:
        found = eigsh(part, 1, which="LA", tol=_TOL, seed=seed, check_multiplicity=False)
        largest = max(largest, float(found.eigenvalues[0] + found.residuals[0]))
        products += found.matvecs
    return largest, products


def _checked_scale(largest: float, damping: float, scale: float | None) -> float:
    if scale is None:
        # All of h / scale + damping then lies in (0, 1]; from one on, batches that differ make the series noisier.
        return largest / max(1.0 - damping, 0.5) if largest > 0 else 1.0
    if not (np.isfinite(scale) and scale > 0):
        raise InvalidInputError(f"scale must be a positive number, got {scale!r}.")
    if largest / scale + damping >= 2:
        raise InvalidInputError(
            f"the series diverges: the largest eigenvalue of a batch is about {largest:.4g}, and with scale={scale:g} "
            f"and damping={damping:g} h / scale + damping reaches {largest / scale + damping:.4g}, where it must stay "
            f"below 2. Use scale={1.05 * largest / max(1.0 - damping, 0.5):.3g}."
        )
    return float(scale)


def _draws(shares: NDArray[np.float64], steps: int, seed: int, repeat: int) -> NDArray[np.intp]:
    uniform = probes.sample_uniforms(seed, _FIRST_STREAM + repeat, range(steps), 1)[:, 0]
    return np.minimum(np.searchsorted(np.cumsum(shares), uniform, side="right"), len(shares) - 1)


def _stepped(part: LinearOperator, x: Array, b: Array, damping: float, scale: float) -> Array:
    backend = part.backend
    product = part._matvec(x)
    x = backend.axpy_(backend.scale_(x, 1.0 - damping), -1.0 / scale, product)
    return backend.axpy_(x, 1.0, b)


def _check_bounded(x: Array, length: float, damping: float, scale: float, part: LinearOperator) -> None:
    """Raise if x is longer than b over the damping, which it cannot be if no batch has negative curvature."""
    (found,) = part.backend.to_host(part.backend.norm(x))
    if np.isfinite(found) and found <= 2 * length / damping:
        return
    if not np.isfinite(found):
        raise NonFiniteError(
            f"the series with {part!r} holds NaN or infinity. Check the parameters and the data for NaN."
        )
    raise DomainError(
        f"the series diverged: |x| is {float(found):.3g}, where |b| / damping = {length / damping:.3g} bounds it "
        f"unless a batch has an eigenvalue below -damping * scale = {-damping * scale:.3g}. Raise damping, or use a "
        f"positive semidefinite matrix such as objective.ggn()."
    )


def _mean(runs: list[Array], backend: Any) -> Array:
    total = backend.copy(runs[0])
    for x in runs[1:]:
        total = backend.axpy_(total, 1.0, x)
    return backend.scale_(total, 1.0 / len(runs))


def _standard_error(runs: list[Array], mean: Array, backend: Any) -> float:
    if len(runs) == 1:
        return float("nan")
    spreads = backend.to_host(*(backend.norm(backend.axpy_(backend.copy(x), -1.0, mean)) for x in runs))
    squares = sum(float(spread) ** 2 for spread in spreads)
    return float((squares / (len(runs) * (len(runs) - 1))) ** 0.5)
