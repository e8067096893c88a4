r"""Linear layers to a large vocabulary, with second derivatives that hold one array as large as the logits.

Logits :math:`h W^T` of rows h change along dh and dW by :math:`h\, dW^T + dh\, W^T`. Autograd makes both terms, and
then a third array for their sum; here the second is added where it is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MATRIX_PRODUCTS", "linear", "matrix_product"]

MATRIX_PRODUCTS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
"""Functions of two arguments that multiply matrices."""

# Fewer outputs are small beside what a model holds.
_MANY_OUTPUTS = 4096


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what `torch.nn.functional.linear` returns for the same arguments."""
    if not _is_large(*([input, weight] if bias is None else [input, weight, bias])):
        return functional.linear(input, weight, bias)
    outputs: Tensor = _Linear.apply(input.flatten(0, -2), weight)  # type: ignore[no-untyped-call]
    outputs = outputs.unflatten(0, input.shape[:-1])
    return outputs if bias is None else outputs + bias


def matrix_product(function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """Return what one of `MATRIX_PRODUCTS` returns for the same arguments."""
    if isinstance(right, Tensor) and right.ndim == 2 and isinstance(left, Tensor) and _is_large(left, right.T):
        return linear(left, right.T)
    return function(left, right)


def _is_large(input: Tensor, weight: Tensor, *bias: Tensor) -> bool:
    given = (input, weight, *bias)
    is_plain = all(type(one) in (Tensor, nn.Parameter) and one.dtype == input.dtype for one in given)
    # Of complex numbers derivatives are conjugated, and sparse arrays have kernels of their own.
    is_dense = input.is_floating_point() and all(one.layout == torch.strided for one in given)
    is_large = weight.ndim == 2 and weight.shape[0] >= _MANY_OUTPUTS and input.ndim >= 2
    if not (is_plain and is_dense and is_large):
        return False
    # Autocast has a rule for torch's function, and so has every transform that a model itself makes.
    is_transformed = any(map(torch._C._functorch.is_functorch_wrapped_tensor, given))
    return not (is_transformed or torch.is_autocast_enabled(input.device.type))


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, weight: Tensor) -> Tensor:
        return rows @ weight.T

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Any) -> None:
        rows, weight = inputs
        of_rows, of_weight = context.needs_input_grad
        # What nothing is differentiated with may be overwritten by now, as where the weight is frozen.
        context.save_for_backward(rows if of_weight else None, weight if of_rows else None)
        context.save_for_forward(*inputs)

    @staticmethod
    def jvp(context: Any, rows_along: Tensor | None, weight_along: Tensor | None) -> Tensor | None:
        return _pushed(rows_along, weight_along, *context.saved_tensors)

    @staticmethod
    def backward(context: Any, slopes: Tensor) -> tuple[Tensor, Tensor]:
        pulled: tuple[Tensor, Tensor] = _Pullback.apply(slopes, *context.saved_tensors, *context.needs_input_grad)  # type: ignore[no-untyped-call]
        return pulled


class _Pullback(torch.autograd.Function):
    """The derivatives in rows and in the weight, for slopes in the outputs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        slopes: Tensor, rows: Tensor, weight: Tensor, of_rows: bool, of_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        return _times(slopes, weight) if of_rows else None, _times(slopes.T, rows) if of_weight else None

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Any) -> None:
        context.set_materialize_grads(False)
        context.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(context: Any, rows_along: Tensor | None, weight_along: Tensor | None) -> tuple[Tensor | None, ...]:
        slopes, rows, weight = context.saved_tensors
        of_slopes, of_rows, of_weight, *_ = context.needs_input_grad
        return (
            _pushed(rows_along, weight_along, rows, weight) if of_slopes else None,
            _times(slopes, weight_along) if of_rows and weight_along is not None else None,
            _times(slopes.T, rows_along) if of_weight and rows_along is not None else None,
            None,
            None,
        )


def _pushed(rows_along: Tensor | None, weight_along: Tensor | None, rows: Tensor, weight: Tensor) -> Tensor | None:
    """Return what the outputs change by along a direction."""
    pushed = None if weight_along is None else rows @ weight_along.T
    if rows_along is None:
        return pushed
    return rows_along @ weight.T if pushed is None else torch.addmm(pushed, rows_along, weight.T)


def _times(slopes: Tensor, right: Tensor) -> Tensor:
    """Return the matrix product; slopes that are one number, such as those at which a Jacobian is taken, stay one."""
    if any(slopes.stride()) or not slopes.numel():
        return slopes @ right
    return (slopes[:1, :1] * right.sum(0, keepdim=True)).expand(len(slopes), -1)
