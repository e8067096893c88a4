"""stability: which learning rates the curvature of a loss allows, and where an optimizer's stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from specop.arrays.backend import Array, numbers_of
from specop.errors import InvalidInputError, checked_limit
from specop.krylov.task import Task
from specop.landscape._dynamics import Dynamics, dynamics_at, plain_dynamics
from specop.landscape._ends import bounded, outermost, smallest_eigenvalue
from specop.landscape._inputs import input_conditions
from specop.landscape._point import point_of
from specop.landscape._steps import next_losses
from specop.operators.operator import LinearOperator
from specop.results.eigen import EigenResult
from specop.results.result import Result
from specop.results.stability import StabilityResult

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["stability"]

# What heavy ball and Nesterov's method are usually run with.
_USUAL_MOMENTUM = 0.9


def stability(
    objective: Objective,
    optimizer: Any = None,
    *,
    lr: float | None = None,
    momentum: float | None = None,
    nesterov: bool = False,
    theta: Array | None = None,
    k: int = 1,
    v0: Array | EigenResult | None = None,
    tol: float = 1e-3,
    steps: int = 10,
    condition_matvecs: int = 100,
    layer_inputs: Any = None,
    max_matvecs: int | None = None,
    confidence: float = 0.99,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> StabilityResult:
    r"""Compare the largest curvature of the loss with the limit up to which an optimizer's steps are stable.

    On a quadratic with largest eigenvalue h and at a learning rate :math:`\eta` steps do not grow while

    ====================================  ==========================================================
    gradient descent                      :math:`h < 2 / \eta`
    heavy ball, momentum b                :math:`h < 2 (1 + b) / \eta`; with dampening d over 1 - d
    Nesterov, momentum b                  :math:`h < 2 (1 + b) / ((1 + 2 b) \eta)`
    Adam, AdamW, RMSprop                  the same of :math:`P^{-1/2} H P^{-1/2}`
    ====================================  ==========================================================

    where P are the roots of the second moments in the optimizer's state, with its epsilon and bias correction as it
    has them, and Adam's mean of gradients is heavy ball with b = beta1 at 1 - b times the rate: the limit is
    :math:`2 (1 + b) / ((1 - b) \eta)` [1]_ [2]_. A weight decay w that is added to the gradient is added to H; one
    apart from it makes of the 2 in the limit :math:`2 - \eta w`. Where parameters have rates of their own, they are
    taken into the matrix, and the limit is that at rate 1.

    Networks trained with a squared loss rise to about this limit and stay there, at the edge of stability.

    Parameters
    ----------
    objective : Objective
        The model is left as it is. Of a part of the parameters, by ``select=`` or ``restrict``, the limit is for steps
        that move these only, and the sharpness at most that of all.
    optimizer : optimizer, optional
        SGD, Adam, AdamW or RMSprop of ``torch.optim`` or ``keras.optimizers``; of optax a pair ``(transformation,
        state)`` of sgd, adam, adamw, amsgrad or rmsprop, also with schedules, masks and injected settings, or an
        ``nnx.Optimizer``. Its state is part of it, and the rate is that of the next step.
        It is only read. Others are refused by name.
    lr : float, optional
        Learning rate of gradient descent, or of heavy ball with `momentum`, where there is no `optimizer`. Without both
        there is no limit, and the result says which rates are stable.
    momentum : float, optional
        From 0 to below 1. For the stable rates that are told the default is 0.9, with `lr` it is 0.
    nesterov : bool
        Whether steps with `lr` and `momentum` are Nesterov's.
    theta : native vector (n,), optional
        Parameters at which it is computed; default: the model's current ones.
    k : int
        Number of eigenvectors, those of the largest eigenvalues, of which is said whether steps decay along them.
    v0 : native vector (n,), EigenResult or StabilityResult, optional
        Start vector, as `specop.eigsh` takes it, such as the result of some steps ago, which saves products.
    tol : float
        Relative residual of the eigenpairs.
    steps : int
        Number of next steps whose losses are predicted and measured. Each takes a product, a gradient and a loss.
    condition_matvecs : int
        Largest number of products spent on the smallest eigenvalue, for the condition number; 0 leaves both out.
    layer_inputs : array (samples, features), optional
        What goes into a linear layer, of any framework. The result says what centring and normalizing it would do to
        the condition number of its second moments, a factor of the layer's own curvature [3]_. A bias counts as a
        feature that is one throughout, to be among them.
    max_matvecs : int, optional
        Limit on all products; default: no more than `specop.eigsh` takes, besides those of `steps` and
        `condition_matvecs`.
    confidence : float
        Probability with which an eigenvalue that was missed is found.
    seed : int
        Seed of the random vectors. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning where the largest eigenvalues
        do not converge.

    Returns
    -------
    StabilityResult

    Raises
    ------
    InvalidInputError
        For an optimizer whose limit is not known, that does not hold all parameters of the objective, that climbs, or
        whose second moments are not there yet; and for arguments that do not fit.
    NonFiniteError
        If the loss or its gradient is not finite.

    References
    ----------
    .. [1] J. Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability, ICLR (2021),
       arXiv:2103.00065.
    .. [2] J. Cohen et al., Adaptive gradient methods at the edge of stability (2022), arXiv:2207.14484.
    .. [3] Y. LeCun, L. Bottou, G. Orr, K.-R. Mueller, Efficient backprop, Neural networks: tricks of the trade (1998).

    Examples
    --------
    >>> import torch, specop
    >>> def loss(w, batch):
    ...     return 0.5 * (torch.tensor([1.0, 10.0]) * w**2).sum() + 0.0 * batch.sum()
    >>> objective = specop.objective(loss, params=torch.ones(2), data=torch.zeros(1, 1))
    >>> found = specop.landscape.stability(objective, lr=0.1)
    >>> found.limit, round(found.ratio, 6), round(found.condition_number, 6)
    (20.0, 0.5, 10.0)
    >>> {name: round(rate, 6) for name, rate in found.stable_rates.items()}
    {'gradient descent': 0.2, 'heavy ball, momentum 0.9': 0.38, 'Nesterov, momentum 0.9': 0.135714}
    """
    task = Task(
        "stability",
        objective.backend,
        objective.processes,
        seed=seed,
        samples=objective.samples,
        progress=progress,
        raise_on_failure=raise_on_failure,
    )
    steps, spent = _whole("steps", steps), _whole("condition_matvecs", condition_matvecs)
    inputs = {} if layer_inputs is None else input_conditions(layer_inputs)
    point = point_of(objective, theta)
    dynamics = dynamics_at(objective, optimizer, lr, momentum, nesterov, point.gradient)
    hessian = objective.hessian(theta)
    matrix = dynamics.matrix(hessian)
    if np.isnan(dynamics.step.rate):
        steps = 0
    left = _left(max_matvecs, k, 1 + steps)
    task.operators = (hessian,)
    with task:
        task.notes |= dict.fromkeys(dynamics.notes)
        eigen = outermost(matrix, k, "LA", v0, tol, left, confidence, seed)
        largest = float(eigen.eigenvalues[-1])
        sharpness = bounded(eigen, -1, confidence)
        spent = spent if left is None else min(spent, left - eigen.matvecs)
        smallest, condition = smallest_eigenvalue(matrix, eigen, tol, spent, confidence, seed)
        fastest = _fastest_rate(task, hessian, dynamics, point.gradient, point.slope)
        predicted, actual = next_losses(
            task, objective, hessian, dynamics, point.theta, point.loss, point.gradient, steps
        )
        limit = dynamics.limit
        factors = [dynamics.factors(value) for value in eigen.eigenvalues]
        return task.result(
            StabilityResult,
            **_fields_of(eigen),
            sharpness=sharpness,
            limit=limit,
            ratio=largest / limit,
            condition_number=condition,
            smallest=smallest,
            stable_rates=_stable_rates(dynamics, optimizer, momentum, largest),
            fastest_rate=fastest,
            optimizer=dynamics.name,
            rate=dynamics.step.rate,
            momentum=dynamics.step.momentum,
            preconditioned=dynamics.turned is not None,
            factors=np.array([abs(first) for first, _ in factors]),
            behaviours=tuple(_behaviour(first) for first, _ in factors),
            gradient_norm=point.slope,
            input_conditions={name: value for name, (value, _) in inputs.items()},
            input_ranks={name: rank for name, (_, rank) in inputs.items()},
            predicted=predicted,
            actual=actual,
            converged=eigen.converged,
            message=eigen.message,
        )


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InvalidInputError(f"{name} must be an integer >= 0, got {value!r}.")
    return int(value)


def _left(max_matvecs: int | None, k: int, others: int) -> int | None:
    if max_matvecs is None:
        return None
    what = f", for k={k} eigenvectors, the curvature along the gradient and {others - 1} next steps"
    return checked_limit(max_matvecs, k + others, what) - others


def _fastest_rate(task: Task, hessian: LinearOperator, dynamics: Dynamics, gradient: Array, length: float) -> float:
    """Return the rate at which a step without momentum lowers the quadratic model most."""
    if length == 0:
        return np.nan
    backend = task.backend
    along = dynamics.preconditioned(backend, gradient)
    image = task.multiply_by(hessian, along)
    slope, curved = numbers_of(backend, backend.dot(gradient, along), backend.dot(along, image))
    return slope / curved if curved > 0 else np.inf


def _stable_rates(dynamics: Dynamics, optimizer: Any, momentum: float | None, largest: float) -> dict[str, float]:
    found: dict[str, float] = {}
    if dynamics.turned is None:
        kept = dynamics.step.momentum or (_USUAL_MOMENTUM if momentum is None else momentum)
        others = [plain_dynamics(None, kept, nesterov) for nesterov in (False, True)]
        found = {"gradient descent": plain_dynamics(None, 0.0, False).stable_rate(largest)}
        found |= {f"{one.name}, momentum {kept:g}": one.stable_rate(largest) for one in others if kept}
    if optimizer is not None:
        rate, taken = dynamics.step.rate, dynamics.step.decoupled
        found[dynamics.name] = dynamics.stable_rate(largest, taken / rate if rate else 0.0)
    return found


def _behaviour(factor: complex) -> str:
    """Return in words what steps do that multiply by a factor; of two the one of the larger size."""
    if not np.isfinite(factor):
        return "unknown"
    turns = abs(factor.imag) > 1e-9 * abs(factor) or factor.real < 0
    if abs(abs(factor) - 1.0) < 1e-12:
        return "oscillates" if turns else "stays"
    if abs(factor) < 1:
        return "oscillates and decays" if turns else "decays"
    return "oscillates and grows" if turns else "grows"


def _fields_of(eigen: EigenResult) -> dict[str, Any]:
    """Return what an eigenvalue computation found, without what it says of its making."""
    return {name: value for name, value in vars(eigen).items() if name not in Result.__dataclass_fields__}
