"""hessian_spread: how far Hessians of mini-batches are from that of all data, and how many batches are enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from specop.arrays.backend import Array, backend_of, numbers_of
from specop.errors import InvalidInputError, checked_count, checked_number
from specop.krylov.task import Task
from specop.objectives.checked_point import checked_point
from specop.results.eigen import EigenResult
from specop.results.hessian_spread import HessianSpreadResult
from specop.spectral.eigsh import eigsh
from specop.spectral.trace import trace
from specop.statistics.estimate import check_confidence, estimate_from_samples
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["hessian_spread"]

# Random vectors for the trace of each batch.
_PROBES = 8


def hessian_spread(
    objective: Objective,
    k: int = 1,
    *,
    batches: int = 8,
    batch_size: int | None = None,
    rtol: float = 0.05,
    tol: float = 1e-2,
    confidence: float = 0.95,
    theta: Array | None = None,
    seed: int = 0,
    progress: bool = False,
) -> HessianSpreadResult:
    r"""Compare Hessians of mini-batches with that of all data: largest eigenvalues, traces and spaces of eigenvectors.

    The largest eigenvalue of a batch's Hessian is too large on average, and the curvature along a direction that does
    not know the batch is too small:

    .. math:: E[\lambda_1(H_b)] \ge \lambda_1(H) \ge E[v^\top H_b v].

    For v the first eigenvector of another batch that brackets the largest eigenvalue of the population, without a pass
    over all data. The mean Hessian of q batches has a largest eigenvalue that is off by about

    .. math:: \frac cq + \frac{s}{\sqrt q},

    with the standard deviation s of :math:`v_1^\top H_b v_1` over batches, v_1 the first eigenvector of H, and c by how
    much a batch's largest eigenvalue is too large. How many batches make that small is `batches_needed`.

    Parameters
    ----------
    objective : Objective
        The model is left as it is.
    k : int
        Number of largest eigenvalues of each matrix, and dimension of the spaces that are compared.
    batches : int
        How many disjoint batches of random samples are looked at, at least 3.
    batch_size : int, optional
        Number of samples in each; default: all samples are used.
    rtol : float
        Error of the largest eigenvalue, relative to it, for `batches_needed`.
    tol : float
        Relative residual at which an eigenpair has converged.
    confidence : float
        Probability with which the intervals cover the truth, and with which the error after `batches_needed` is within
        `rtol`.
    theta : native vector (n,), optional
        Parameters at which it is computed; default: the model's current ones.
    seed : int
        Seed of batches and random vectors. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    HessianSpreadResult
        The spread of batches' Hessians. It takes the eigenpairs of H and of each batch, and with each batch 8 products
        for its trace and k + 1 for the bracket; those with batches cost as little as batches are small. `matvecs`
        counts both kinds.

    Raises
    ------
    InvalidInputError
        If the data have too few samples for so many batches, or samples depend on each other.

    Examples
    --------
    >>> import torch, specop
    >>> _ = torch.manual_seed(0)
    >>> data = (torch.randn(256, 6), torch.randn(256, 1))
    >>> objective = specop.objective(torch.nn.Linear(6, 1), torch.nn.functional.mse_loss, data)
    >>> found = specop.landscape.hessian_spread(objective)
    >>> found.eigenvalues.shape, bool(found.upper.estimate > found.lower.estimate)
    ((8, 1), True)
    """
    task = Task(
        "hessian_spread",
        objective.backend,
        objective.processes,
        seed=seed,
        samples=objective.samples,
        progress=progress,
    )
    check_confidence(confidence)
    checked_count("batches", batches)
    checked_number("rtol", rtol, positive=True)
    checked_point(objective, theta)
    samples = objective.samples
    size = samples // batches if batch_size is None else checked_count("batch_size", batch_size)
    if batches < 3 or size < 1 or batches * size > samples:
        raise InvalidInputError(
            f"{batches} batches of {size} samples cannot be drawn from {samples}, or are too few to show a spread. "
            f"Pass batches= and batch_size= with batches >= 3 and batches * batch_size <= {samples}."
        )
    order = np.random.Generator(np.random.Philox(key=[seed, samples])).permutation(samples)
    backend = task.backend
    with task:
        whole = eigsh(objective.hessian(theta), k, which="LA", tol=tol, seed=seed)
        values, traces, errors, alignment, forms = [], [], [], [], []
        crossed, before = [], whole
        parts = [objective.subset(order[i * size : (i + 1) * size]) for i in range(batches)]
        _check_additive(objective.subset(order[: batches * size]), parts, theta)
        for number, part in enumerate(parts):
            hessian = part.hessian(theta)
            found = eigsh(hessian, k, which="LA", v0=whole, tol=tol, seed=seed)
            values.append(found.eigenvalues[::-1])
            # Own random vectors, so that what they make of the traces does not add up.
            spent = trace(hessian, max_matvecs=_PROBES, method="hutchinson", seed=seed + 1 + number)
            traces.append(spent.estimate)
            errors.append(spent.standard_error)
            cosines = backend.row_products([found.rows], [whole.rows])
            alignment.append(float(np.sum(cosines**2)) / k)
            forms.append(_forms(task, hessian, whole, range(k)))
            crossed.append(_forms(task, hessian, before, [k - 1])[0])
            before = found
            part.release()
            task.update()
        # The first batch had none before it.
        hessian = parts[0].hessian(theta)
        crossed[0] = _forms(task, hessian, before, [k - 1])[0]
        parts[0].release()
        eigenvalues, along = np.array(values), np.array(forms)[:, ::-1]
        return task.result(
            HessianSpreadResult,
            whole_eigenvalues=whole.eigenvalues[::-1].copy(),
            eigenvalues=eigenvalues,
            traces=np.array(traces),
            trace_errors=np.array(errors),
            alignment=np.array(alignment),
            along=along,
            lower=estimate_from_samples(np.array(crossed), confidence),
            upper=estimate_from_samples(eigenvalues[:, 0], confidence),
            batch_size=size,
            rtol=rtol,
            converged=True,
            message="converged",
        )


def _check_additive(union: Objective, parts: list[Objective], theta: Array | None) -> None:
    """Raise InvalidInputError where losses of mini-batches are not parts of the loss of all."""
    value = union.loss(theta)
    backend = backend_of(value)
    whole, *losses = numbers_of(backend, value, *(part.loss(theta) for part in parts))
    mean = float(np.average(losses, weights=[part.terms for part in parts]))
    if abs(mean - whole) > 10.0 * union.hessian(theta).precision ** 0.5 * max(map(abs, [whole, *losses])):
        raise InvalidInputError(
            f"losses of mini-batches do not add up: {whole:.6g} for all of their samples, {mean:.6g} for the mean over "
            f"{len(parts)} batches. Samples depend on each other, as with batch normalization in training mode and "
            f"contrastive losses, and a mini-batch has another loss, not a noisy Hessian of this one."
        )


def _forms(task: Task, hessian: Any, pairs: EigenResult, which: Any) -> Floats:
    """Return v'Hv for some eigenvectors."""
    with hessian.session():
        vectors = [pairs.eigenvector(i) for i in which]
        found = [task.backend.dot(v, task.multiply_by(hessian, v)) for v in vectors]
    return np.array(numbers_of(task.backend, *found))
