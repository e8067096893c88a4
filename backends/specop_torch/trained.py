"""check_trained: whether loss and gradient are those of a plain call of the model and ``loss.backward()``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from specop.objectives.refusals import changing_loss, untrained_gradient
from specop_torch.evaluation import Evaluation
from specop_torch.graph import grads_kept
from specop_torch.structures import normal

__all__ = ["check_trained"]


def check_trained(
    evaluation: Evaluation,
    once: dict[str, Tensor],
    again: dict[str, Tensor],
    own: Mapping[str, Tensor],
    batch: Any,
    precision: float,
    changed: Callable[[], list[str]],
) -> None:
    """Raise unless two calls of the loss agree, and the gradient is that which ``loss.backward()`` leaves.

    Parameters
    ----------
    evaluation : Evaluation
    once, again : dict
        Leaves that stand for the parameters.
    own : mapping
        The user's own parameters, whose hooks training calls.
    batch : structure
        A few samples.
    precision : float
        Relative rounding error.
    changed : callable
        Names what calls have changed in the model.
    """
    model = evaluation.model
    still = {name: normal(tensor.detach()) for name, tensor in model.named_state() if name not in own}
    with torch.enable_grad(), evaluation.running(twice_differentiable=False):
        first = evaluation.loss(once, batch)
        # What the first call keeps, the second one's graph may lead through.
        kept = changed()
        gradients = evaluation.gradients(first, once, create_graph=bool(kept))
    with torch.enable_grad(), evaluation.running(twice_differentiable=False):
        # None of the model's own tensors is part of this graph, so that their .grad and hooks are left alone.
        second, updated = evaluation.again(still | again, batch)
        one, other = float(first.detach()), float(second.detach())
        tolerance = min(100.0 * precision, 0.03)
        if abs(one - other) > tolerance * max(abs(one), abs(other)):
            raise changing_loss(one, other, changed() + updated)
        if second.requires_grad:
            with grads_kept(second, again.values()):
                model.holding(still | again, second.backward)
    sizes: dict[str, tuple[float, float, float]] = {}
    for (name, parameter), given in zip(own.items(), gradients, strict=True):
        found = torch.zeros_like(parameter) if given is None else given.detach()
        plain = _hooked(parameter, again[name].grad, found)
        sizes[name] = (float(found.norm()), float(plain.norm()), float((found - plain).norm()))
    floor = 0.01 * max(max(size) for size in sizes.values())
    off = {name: size for name, size in sizes.items() if size[2] > max(1e-3, tolerance) * max(size[0], size[1], floor)}
    if off:
        found_norm, plain_norm, _ = map(max, zip(*off.values(), strict=True))
        remedy = _REMEDY
        if kept:
            remedy = (
                f"The model keeps {', '.join(map(repr, kept))} from one call to the next, which then depends on no "
                f"parameter: compute it in each call. {_REMEDY}"
            )
        raise untrained_gradient(found_norm, plain_norm, [*off], remedy)


_REMEDY = (
    "Checkpointing with use_reentrant=True hides parameters from the derivatives: pass use_reentrant=False. Hooks that "
    "change the gradients of parameters make them those of no loss: remove them, or leave these parameters out."
)


def _hooked(parameter: Tensor, gradient: Tensor | None, like: Tensor) -> Tensor:
    """Return a gradient as the hooks of its parameter leave it."""
    if gradient is None:
        return torch.zeros_like(like)
    for hook in (parameter._backward_hooks or {}).values():
        changed = hook(gradient)
        gradient = gradient if changed is None else changed
    return gradient
