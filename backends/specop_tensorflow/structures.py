"""Batches and parameter structures: the tensors inside containers of any kind."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, MutableMapping
from typing import Any

import numpy as np
import optree
import tensorflow as tf
from numpy.typing import NDArray

from specop.errors import InvalidInputError
from specop.objectives.trees import among_samples, collected, map_items

__all__ = ["leaves", "map_tensors", "pick", "signature", "take"]


def leaves(structure: Any) -> list[Any]:
    """Return the tensors, variables and NumPy arrays of a structure, in a fixed order."""
    return collected(map_tensors, structure)


def map_tensors(function: Callable[[Any], Any], structure: Any) -> Any:
    """Return the structure with each tensor, variable and NumPy array replaced; everything else stays as it is.

    Tuples, lists, dicts and what else optree knows, dataclasses, and other mutable mappings.
    """

    def replace(leaf: Any) -> Any:
        if isinstance(leaf, (tf.Tensor, tf.Variable, np.ndarray, np.generic)):
            return function(leaf)
        if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
            raise InvalidInputError(
                f"a batch holds a {type(leaf).__name__}; only dense tensors are supported. Convert it, with "
                f"to_tensor() or tf.sparse.to_dense, before it is given to objective()."
            )
        return map_items(functools.partial(map_tensors, function), leaf)

    return optree.tree_map(replace, structure, none_is_leaf=True)


def take(structure: Any, count: int, start: int, stop: int) -> Any:
    """Return the samples from `start` to `stop` of a batch of `count`: of each tensor whose leading dimension it is."""
    return map_tensors(among_samples(lambda leaf: leaf[start:stop], count), structure)


def pick(structure: Any, count: int, indices: NDArray[np.intp]) -> Any:
    """Return the samples at some places of a batch of `count`: of each tensor whose leading dimension it is."""
    return map_tensors(among_samples(lambda leaf: tf.gather(leaf, indices), count), structure)


def signature(structure: Any) -> Any:
    """Return something hashable that is equal for structures that differ in the values of their tensors only."""
    found, treedef = optree.tree_flatten(structure, none_is_leaf=True)
    return treedef, tuple(map(_leaf_signature, found))


def _leaf_signature(leaf: Any) -> Any:
    if isinstance(leaf, tf.Tensor):
        return tuple(leaf.shape), leaf.dtype
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return type(leaf), tuple(signature(getattr(leaf, item.name)) for item in dataclasses.fields(leaf))
    if isinstance(leaf, MutableMapping):
        return type(leaf), tuple((key, signature(value)) for key, value in leaf.items())
    try:
        hash(leaf)
    except TypeError as error:
        raise InvalidInputError(
            f"a batch holds a {type(leaf).__name__}, which is neither a tensor nor hashable: the traced function could "
            f"not tell one batch from another. Turn it into a tensor, or leave it out."
        ) from error
    return type(leaf), leaf
