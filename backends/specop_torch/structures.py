"""Batches and parameter structures: the tensors inside containers of any kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import torch
from numpy.typing import NDArray
from torch import Tensor

from specop.objectives.trees import among_samples, collected, map_items

__all__ = ["leaves", "map_tensors", "move", "pick", "take"]


def leaves(structure: Any) -> list[Tensor]:
    """Return the tensors of a structure, in a fixed order; NumPy arrays count as tensors."""
    return collected(map_tensors, structure)


def move(structure: Any, device: torch.device) -> Any:
    """Return the structure with its tensors on a device; those already there are not copied."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), structure)


def take(structure: Any, count: int, start: int, stop: int) -> Any:
    """Return the samples from `start` to `stop` of a batch of `count`: of each tensor whose leading dimension it is."""
    return map_tensors(among_samples(lambda leaf: leaf[start:stop], count), structure)


def pick(structure: Any, count: int, indices: NDArray[np.intp]) -> Any:
    """Return the samples at some places of a batch of `count`: of each tensor whose leading dimension it is."""
    places = torch.from_numpy(indices)
    return map_tensors(among_samples(lambda leaf: leaf.index_select(0, places.to(leaf.device)), count), structure)


def map_tensors(function: Callable[[Tensor], Tensor], structure: Any) -> Any:
    """Return the structure with each tensor replaced; everything else stays as it is.

    Tuples, lists, dicts and what else optree knows, dataclasses, and other mutable mappings such as the batches of
    tokenizers.
    """

    def replace(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fiub":
            return function(torch.from_numpy(leaf))
        return map_items(functools.partial(map_tensors, function), leaf)

    return optree.tree_map(replace, structure, none_is_leaf=True)
