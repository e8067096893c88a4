"""Structures of tensors: what torch's containers and arrays are."""

from __future__ import annotations

from typing import Any

import numpy as np
import optree
import torch
from torch import Tensor

from specop.objectives.trees import Trees

__all__ = ["TREES"]


# In it, dicts keep the order in which their user wrote them: concatenated values are then vectors.
_NAMESPACE = "specop"


def _flatten(structure: Any) -> tuple[list[Any], Any]:
    with optree.dict_insertion_ordered(True, namespace=_NAMESPACE):
        return optree.tree_flatten(structure, none_is_leaf=True, namespace=_NAMESPACE)


def _names(structure: Any) -> list[str]:
    with optree.dict_insertion_ordered(True, namespace=_NAMESPACE):
        paths, *_ = optree.tree_flatten_with_path(structure, none_is_leaf=True, namespace=_NAMESPACE)
    return [".".join(map(str, path)) or "params" for path in paths]


def _as_tensor(leaf: Any) -> Tensor | None:
    if isinstance(leaf, Tensor):
        return leaf
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fiub":
        return torch.from_numpy(leaf)
    return None


TREES = Trees(
    flatten=_flatten,
    unflatten=optree.tree_unflatten,
    names=_names,
    as_array=_as_tensor,
    shape=lambda tensor: tuple(tensor.shape) if isinstance(tensor, Tensor) else None,
    between=lambda tensor, start, stop: tensor[start:stop],
    at=lambda tensor, indices: tensor.index_select(0, torch.from_numpy(indices).to(tensor.device)),
)
