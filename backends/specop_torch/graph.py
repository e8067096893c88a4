"""What an autograd graph says before it is differentiated."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import function as autograd_function

from specop.errors import InvalidInputError

__all__ = [
    "coarsest",
    "depends_on",
    "grads_kept",
    "graph_bytes",
    "leaves_of",
    "naming_missing_derivatives",
    "naming_reentrant_checkpoints",
    "nodes",
    "refuse_bypassed",
    "refuse_first_order",
]

# What torch says where a derivative of a derivative is missing.
_MISSING = (
    "double backward",
    "donated buffers",
    "is not implemented",
    "is not differentiable twice",
    "once_differentiable",
    "not support automatic differentiation",
)


def refuse_first_order(loss: Tensor) -> None:
    """Raise if a custom function in the loss's graph is marked as differentiable once only.

    Torch itself says so only where the function's incoming gradient requires grad; elsewhere it leaves the second
    derivative out without a word.

    Parameters
    ----------
    loss : Tensor
        Loss that still has its graph.
    """
    for node in nodes(loss):
        custom = getattr(node, "_forward_cls", None)
        if custom is not None and _is_once_differentiable(custom.backward):
            raise InvalidInputError(
                f"{custom.__module__}.{custom.__qualname__} is marked @once_differentiable: it has no second "
                f"derivative, and the Hessian would lack its part. Write its backward in differentiable operations, or "
                f"use plain operations instead of the fused function."
            )
        if "FakeQuantize" in node.name():
            raise InvalidInputError(
                "the forward pass rounds to quantized values and passes gradients straight through (fake "
                "quantization): that gradient is of no loss, and has no Hessian. Pass the model without quantization."
            )


def refuse_bypassed(value: Tensor, parameters: Mapping[str, Tensor]) -> None:
    """Raise if a graph reaches the user's own parameters, and not only the leaves that stand for them.

    Parameters
    ----------
    value : Tensor
        Value that still has its graph.
    parameters : mapping
        The user's own ones by name.
    """
    read = {id(variable) for variable in leaves_of(value)}
    for name, parameter in parameters.items():
        if id(parameter) in read:
            raise InvalidInputError(
                f"the forward pass or the criterion reads the parameter {name!r} past the model, such as from a list "
                f"or a variable of its own, so its derivative would lack that part. Read it from the module that holds "
                f"it, as model.parameters() does; a function must use the parameters that it is given."
            )


@contextmanager
def naming_missing_derivatives() -> Iterator[None]:
    """Turn torch's own errors about derivatives that do not exist into InvalidInputError."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not any(part in text.lower() for part in _MISSING):
            raise
        remedy = "an Embedding and a sum" if "embedding_bag" in text else "plain operations"
        raise InvalidInputError(
            f"torch has no second derivative of an operation of the forward pass: {text.splitlines()[0]} Replace it by "
            f"{remedy}, or take finite_difference_hessian(), which needs first derivatives only."
        ) from error


@contextmanager
def naming_reentrant_checkpoints() -> Iterator[None]:
    """Turn torch's own error about checkpoints that run backward themselves into InvalidInputError."""
    try:
        yield
    except RuntimeError as error:
        if "use_reentrant=True" not in str(error):
            raise
        raise InvalidInputError(
            "the model is checkpointed with use_reentrant=True, which calls backward() itself and has neither second "
            "derivatives nor gradients by torch.autograd.grad. Pass use_reentrant=False to torch.utils.checkpoint, for "
            "models of Hugging Face as gradient_checkpointing_kwargs={'use_reentrant': False}, or switch "
            "checkpointing off: gradients are the same."
        ) from error


def coarsest(value: Tensor) -> float:
    """Return the largest rounding error of the dtypes in a graph, which may cast inside, as under autocast."""
    dtypes = {made.dtype for node in nodes(value) for made in node._input_metadata if made is not None}
    return max((torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point), default=0.0)


def depends_on(value: Tensor, points: Iterable[Tensor]) -> bool:
    """Return whether a graph reaches one of these leaves."""
    read = {id(variable) for variable in leaves_of(value)}
    return any(id(point) in read for point in points)


@contextmanager
def grads_kept(value: Tensor, points: Iterable[Tensor]) -> Iterator[None]:
    """Leave the ``.grad`` of all leaves of a graph but these as they are found."""
    own = set(map(id, points))
    kept = [(variable, variable.grad) for variable in leaves_of(value) if id(variable) not in own]
    for variable, _ in kept:
        variable.grad = None
    try:
        yield
    finally:
        for variable, grad in kept:
            variable.grad = grad


def graph_bytes(values: Sequence[Tensor], owned: Iterable[Tensor]) -> int:
    """Return the memory that graphs hold and that would be free without them.

    Parameters
    ----------
    values : sequence of Tensor
        Tensors that still have their graphs.
    owned : iterable of Tensor
        Tensors that are held anyway, and do not count.
    """
    seen: set[Any] = set()
    held: dict[int, int] = {}
    for node in itertools.chain.from_iterable(nodes(value, seen) for value in values):
        names = [name for name in dir(node) if name.startswith("_saved_")]
        saved = [*(getattr(node, name) for name in names), *getattr(node, "saved_tensors", ())]
        for one in saved:
            if isinstance(one, Tensor):
                storage = _memory(one)
                held[storage.data_ptr()] = storage.nbytes()
    known = {_memory(one).data_ptr() for one in owned}
    return sum(size for pointer, size in held.items() if pointer not in known)


def _memory(tensor: Any) -> Any:
    """Return the storage of a tensor; of a DTensor that of this process's part, which may still be on its way."""
    tensor = getattr(tensor, "_local_tensor", tensor)
    return getattr(tensor, "elem", tensor).untyped_storage()


def leaves_of(value: Tensor) -> Iterator[Tensor]:
    """Yield the leaves of a graph."""
    if value.requires_grad and value.is_leaf:
        yield value
    for node in nodes(value):
        if hasattr(node, "variable"):
            yield node.variable


def nodes(value: Tensor, seen: set[Any] | None = None) -> Iterator[Any]:
    """Yield the operations of a graph but those seen, and add them to these."""
    waiting: list[Any] = [value.grad_fn]
    seen = set() if seen is None else seen
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(child for child, _ in node.next_functions)


def _is_once_differentiable(backward: Any) -> bool:
    code = getattr(backward, "__code__", None)
    return hasattr(backward, "__wrapped__") and code is not None and code.co_filename == autograd_function.__file__
