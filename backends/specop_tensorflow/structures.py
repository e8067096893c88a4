"""Structures of tensors: what TensorFlow's containers and arrays are."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, MutableMapping
from typing import Any

import keras
import numpy as np
import optree
import tensorflow as tf

from specop.errors import InvalidInputError
from specop.objectives.trees import Trees, by_optree

__all__ = ["TREES", "tensor_of"]

_ARRAYS = (tf.Tensor, tf.Variable, keras.Variable, np.ndarray, np.generic)


def _as_tensor(leaf: Any) -> Any:
    """Return a tensor, a variable or a NumPy array as it is."""
    if isinstance(leaf, _ARRAYS):
        return leaf.value if isinstance(leaf, keras.Variable) else leaf
    if isinstance(leaf, tf.distribute.DistributedValues):
        raise InvalidInputError(
            f"a batch holds a {type(leaf).__name__}, a part for each replica, as experimental_distribute_dataset gives "
            f"them. Pass the data set that it was made of: its batches are dealt out to the devices of the model."
        )
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        raise InvalidInputError(
            f"a batch holds a {type(leaf).__name__}; only dense tensors are supported. Convert it, with "
            f"to_tensor() or tf.sparse.to_dense, before it is given to objective()."
        )
    if not (dataclasses.is_dataclass(leaf) or isinstance(leaf, (MutableMapping, Hashable))):
        raise InvalidInputError(
            f"a batch holds a {type(leaf).__name__}, which is neither a tensor nor hashable: the traced function could "
            f"not tell one batch from another. Turn it into a tensor, or leave it out."
        )
    return None


TREES = Trees(
    **by_optree(optree),
    as_array=_as_tensor,
    shape=lambda tensor: tuple(tensor.shape) if isinstance(tensor, _ARRAYS) else None,
    between=lambda tensor, start, stop: tensor[start:stop],
    at=tf.gather,
    join=lambda arrays: tf.concat(list(arrays), 0),
)


def tensor_of(array: Any) -> tf.Tensor:
    """Return a NumPy array as a tensor."""
    try:
        return tf.convert_to_tensor(array)
    except ValueError as error:
        raise InvalidInputError(
            f"TensorFlow has no tensors of {array.dtype}: convert that array of the data."
        ) from error
