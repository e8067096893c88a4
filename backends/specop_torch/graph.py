"""What an autograd graph says before it is differentiated twice."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import function as autograd_function

from specop.errors import InvalidInputError

__all__ = ["refuse_first_order"]


def refuse_first_order(loss: Tensor) -> None:
    """Raise if a custom function in the loss's graph is marked as differentiable once only.

    Torch itself says so only where the function's incoming gradient requires grad; elsewhere it leaves the second
    derivative out without a word.

    Parameters
    ----------
    loss : Tensor
        With its graph.
    """
    waiting: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting.extend(child for child, _ in node.next_functions)
        custom = getattr(node, "_forward_cls", None)
        if custom is not None and _is_once_differentiable(custom.backward):
            raise InvalidInputError(
                f"{custom.__module__}.{custom.__qualname__} is marked @once_differentiable: it has no second "
                f"derivative, and the Hessian would lack its part. Write its backward in differentiable operations, or "
                f"use plain operations instead of the fused function."
            )


def _is_once_differentiable(backward: Any) -> bool:
    code = getattr(backward, "__code__", None)
    return hasattr(backward, "__wrapped__") and code is not None and code.co_filename == autograd_function.__file__
