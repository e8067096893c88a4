"""Structures of tensors: what torch's containers and arrays are, sparse ones and those of inference mode included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optree
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from specop.errors import InvalidInputError
from specop.objectives.trees import Trees, by_optree

__all__ = ["TREES", "checked", "normal", "parts"]

_BY_ROWS = (torch.sparse_csr, torch.sparse_bsr)


def checked(tensor: Tensor, what: str) -> Tensor:
    """Return a tensor whose numbers can be read, or raise InvalidInputError."""
    if is_lazy(tensor):
        wrong = "is not initialized: its layer learns its shape from data. Call model(x) once"
    elif tensor.is_meta or type(tensor).__name__ == "FakeTensor":
        wrong = (
            "is on the meta device, or a fake, and holds no numbers. Load them: to_empty(device=...), load_state_dict"
        )
    elif tensor.is_nested:
        wrong = (
            "is a nested tensor, which has no second derivatives. Pass torch.nested.to_padded_tensor(x, 0.0) and a mask"
        )
    elif tensor.is_quantized:
        wrong = "is quantized. Pass x.dequantize()"
    elif tensor.is_mkldnn:
        wrong = "has the layout of oneDNN. Pass x.to_dense()"
    else:
        return tensor
    raise InvalidInputError(f"{what} {wrong}.")


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the dense tensors that hold a tensor's numbers and, if it is sparse, their places."""
    if tensor.layout is torch.strided:
        return (tensor,)
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def normal(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy that autograd can work with if it was created in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _as_tensor(leaf: Any) -> Tensor | None:
    if isinstance(leaf, Tensor):
        return checked(leaf, "a tensor of the batch or of params")
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fiub" and leaf.itemsize <= 8:
        # torch takes neither foreign bytes nor a view that runs backwards.
        own = leaf.astype(leaf.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(own if min(own.strides, default=0) >= 0 else own.copy())
    return None


def _at(tensor: Tensor, indices: Tensor) -> Tensor:
    indices = indices.to(tensor.device)
    if tensor.layout in (torch.strided, torch.sparse_coo):
        return tensor.index_select(0, indices)
    by_rows = tensor.layout in _BY_ROWS
    return _compressed(tensor.to_sparse(layout=torch.sparse_coo).index_select(0, indices), by_rows)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    if all(tensor.layout in (torch.strided, torch.sparse_coo) for tensor in tensors):
        return torch.cat(list(tensors))
    by_rows = tensors[0].layout in _BY_ROWS
    return _compressed(torch.cat([tensor.to_sparse(layout=torch.sparse_coo) for tensor in tensors]), by_rows)


def _compressed(tensor: Tensor, by_rows: bool) -> Tensor:
    # Without blocks, which need not divide the rows.
    return tensor.to_sparse(layout=torch.sparse_csr if by_rows else torch.sparse_csc)


def _between(tensor: Tensor, start: int, stop: int) -> Tensor:
    if tensor.layout is torch.strided:
        return tensor[start:stop]
    return _at(tensor, torch.arange(start, min(stop, len(tensor))))


TREES = Trees(
    **by_optree(optree),
    as_array=_as_tensor,
    shape=lambda tensor: tuple(tensor.shape) if isinstance(tensor, Tensor) else None,
    between=_between,
    at=lambda tensor, indices: _at(tensor, torch.from_numpy(indices)),
    join=_joined,
)
