"""Models with a state that a call could change, in every framework that has such, and what a user could see of it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

# By kind of model: the module that makes it, and what that needs.
_KINDS = {
    "torch": ("torch_state", ["torch"]),
    "flax": ("flax_state", ["jax", "flax"]),
    "equinox": ("equinox_state", ["jax", "equinox"]),
    "keras": ("keras_state", ["tensorflow", "keras"]),
    "tf.Module": ("tensorflow_state", ["tensorflow"]),
}
KINDS = [kind for kind, (_, needed) in _KINDS.items() if all(map(find_spec, needed))]

# Batches of two sizes, so that each is compiled for by itself and a criterion can tell the second one.
_rng = np.random.default_rng(0)
INPUTS = [_rng.standard_normal((4, 3)), _rng.standard_normal((2, 3))]
LABELS = [np.arange(4, dtype=np.int32) % 3, np.arange(2, dtype=np.int32)]


@dataclass(frozen=True)
class Subject:
    """A model, how its objective is made, and what of it must not change.

    Parameters
    ----------
    model : module
    criterion : callable
        Of outputs and integer labels.
    array : callable
        From NumPy arrays to native ones.
    state : callable
        Returns all that a user could see of the model and of the framework's global state.
    keywords : dict
        Of `specop.objective`.
    """

    model: Any
    criterion: Callable[[Any, Any], Any]
    array: Callable[[np.ndarray], Any]
    state: Callable[[], Any]
    keywords: dict[str, Any] = field(default_factory=dict)

    def snapshot(self):
        """Something that is equal only if nothing has changed, bit for bit."""
        return frozen({"model": self.state(), "random": random.getstate(), "numpy": np.random.get_state()})

    def batches(self):
        return [(self.array(x), self.array(y)) for x, y in zip(INPUTS, LABELS, strict=True)]


def subject(kind):
    return import_module(f"stateful.{_KINDS[kind][0]}").subject()


def frozen(structure):
    """The same with arrays as bytes."""
    if isinstance(structure, dict):
        return {key: frozen(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return tuple(map(frozen, structure))
    if hasattr(structure, "__array__"):
        array = np.asarray(structure.detach() if hasattr(structure, "detach") else structure)
        return array.dtype.name, array.shape, array.tobytes()
    return structure
