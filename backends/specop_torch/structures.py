"""Structures of tensors: what torch's containers and arrays are."""

from __future__ import annotations

from typing import Any

import numpy as np
import optree
import torch
from torch import Tensor

from specop.objectives.trees import Trees, by_optree

__all__ = ["TREES"]


def _as_tensor(leaf: Any) -> Tensor | None:
    if isinstance(leaf, Tensor):
        return leaf
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fiub":
        return torch.from_numpy(leaf)
    return None


TREES = Trees(
    **by_optree(optree),
    as_array=_as_tensor,
    shape=lambda tensor: tuple(tensor.shape) if isinstance(tensor, Tensor) else None,
    between=lambda tensor, start, stop: tensor[start:stop],
    at=lambda tensor, indices: tensor.index_select(0, torch.from_numpy(indices).to(tensor.device)),
)
