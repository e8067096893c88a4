"""What an optimizer of torch.optim does with a gradient, read off its parameter groups and its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from specop.errors import InvalidInputError
from specop.objectives.update_rule import Step, UpdateRule, no_rule, no_state, not_held
from specop_torch.autodiff import TorchAutodiff

__all__ = ["update_rule"]


def update_rule(autodiff: TorchAutodiff, optimizer: Any, gradient: Tensor) -> UpdateRule:
    """Return what SGD, Adam, AdamW or RMSprop do with the gradient of the selected parameters.

    They take any gradient as it is: torch clips outside of optimizers.
    """
    optimizer = _unwrapped(optimizer)
    kind, name = type(optimizer), type(optimizer).__name__
    if kind not in _READERS:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InvalidInputError(
                f"optimizer must be one of torch.optim, got {name}. Without one, pass lr= and momentum=."
            )
        raise no_rule(name, "torch.optim.SGD, Adam, AdamW and RMSprop")
    groups = {id(tensor): group for group in optimizer.param_groups for tensor in group["params"]}
    own = autodiff.current()
    absent = [parameter for parameter, tensor in own.items() if id(tensor) not in groups]
    if absent:
        raise not_held(name, absent)
    moments = {parameter: optimizer.state.get(tensor, {}) for parameter, tensor in own.items()}
    if kind is not torch.optim.SGD:
        without = [parameter for parameter, state in moments.items() if not state]
        if without:
            raise no_state(name, without)
    steps, denominators, averages = [], [], []
    for parameter, tensor in own.items():
        group = groups[id(tensor)]
        if group.get("maximize"):
            raise InvalidInputError(
                f"{name} has maximize=True: it climbs, and there is no curvature up to which that is stable. Pass the "
                f"objective of the negative loss, and maximize=False."
            )
        step, denominator, average = _READERS[kind](_numbers(group), moments[parameter])
        steps.append(step)
        denominators.append(denominator)
        averages.append(average)
    scale = None if kind is torch.optim.SGD else autodiff.joined(denominators).rsqrt_()
    moving = any(average is not None for average in averages)
    return UpdateRule(name, tuple(steps), scale, autodiff.joined(averages) if moving else None)


def _sgd(group: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Step, None, Tensor | None]:
    momentum = group["momentum"]
    # Without momentum SGD does not look at the dampening.
    gain = 1.0 - group["dampening"] if momentum else 1.0
    step = Step(group["lr"], momentum, gain, nesterov=bool(group["nesterov"]), coupled=group["weight_decay"])
    return step, None, state.get("momentum_buffer")


def _adam(group: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Step, Tensor, Tensor]:
    (first, second), taken = group["betas"], float(state["step"])
    moment = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"].detach()
    root = (moment / (1.0 - second**taken)).sqrt()
    denominator = (1.0 - first**taken) * (root + group["eps"])
    decay = group["weight_decay"]
    apart = bool(group.get("decoupled_weight_decay"))
    step = Step(
        group["lr"],
        first,
        1.0 - first,
        coupled=0.0 if apart else decay,
        decoupled=group["lr"] * decay if apart else 0.0,
    )
    return step, denominator, state["exp_avg"].detach()


def _rmsprop(group: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Step, Tensor, Tensor | None]:
    moment = state["square_avg"].detach()
    if group["centered"]:
        moment = moment - state["grad_avg"].detach() ** 2
    denominator = moment.sqrt() + group["eps"]
    step = Step(group["lr"], group["momentum"], coupled=group["weight_decay"])
    # It sums up steps that are divided already.
    average = state["momentum_buffer"].detach() * denominator if group["momentum"] else None
    return step, denominator, average


_Reader = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Step, Tensor | None, Tensor | None]]
_READERS: dict[type, _Reader] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.RMSprop: _rmsprop,
}


# Lightning and its Fabric derive a class of its own for each optimizer from one of these and the optimizer's.
_WRAPPERS = {"LightningOptimizer", "_FabricOptimizer", "AcceleratedOptimizer"}


def _unwrapped(optimizer: Any) -> Any:
    """Return the optimizer inside of what Lightning or Accelerate put around it, which leaves its step as it is."""
    while _WRAPPERS & {kind.__name__ for kind in type(optimizer).__mro__}:
        optimizer = optimizer.optimizer
    return optimizer


def _numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter group's settings, those that are tensors as numbers."""
    betas = tuple(map(float, group.get("betas", ())))
    plain = {key: float(value) if isinstance(value, Tensor) else value for key, value in group.items()}
    return {**plain, "betas": betas}
