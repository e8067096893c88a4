"""Models, weights and data that every framework gets alike, made by NumPy in float64.

A model is described once: the shapes of its parameters, in the order of the parameter vector, and its batches. Each
framework writes outputs and criterion once (`torch_models.py`, `jax_models.py`, `tensorflow_models.py`), the outputs as
a function of a list of arrays. Conventions are TensorFlow's: images are (batch, height, width, channels), kernels
(height, width, in, out), a dense layer is ``x @ weight + bias``. Who needs another order transposes inside the
function, so that parameter vectors, and with them probes, are the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PROBLEMS", "Problem"]

# Of the transformer: heads and width, which the shapes of its weights do not tell.
HEADS, WIDTH = 2, 8


@dataclass(frozen=True)
class Problem:
    """Weights by name, in the order of the parameter vector, batches of (inputs, targets), and the likelihood of these.

    Floating arrays are float64; integers are int32, which every framework takes as indices and labels.
    """

    name: str
    weights: dict[str, NDArray[np.float64]]
    batches: list[tuple[NDArray[np.generic], NDArray[np.generic]]]
    likelihood: str = "categorical"

    @property
    def n(self) -> int:
        return sum(weight.size for weight in self.weights.values())

    @property
    def vector(self) -> NDArray[np.float64]:
        """The weights as one vector."""
        return np.concatenate([weight.reshape(-1) for weight in self.weights.values()])


def _weights(seed: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        fan_in = max(int(np.prod(shape[:-1])), 1)
        weights[name] = rng.standard_normal(shape) / fan_in**0.5
        if name.endswith("scale"):
            weights[name] = 1 + 0.1 * weights[name]
    return weights


def _mlp() -> Problem:
    rng = np.random.default_rng(1)
    shapes = {"w1": (6, 16), "b1": (16,), "w2": (16, 12), "b2": (12,), "w3": (12, 4), "b3": (4,)}
    # An uneven last batch: means over batches are not means over samples. Each size is compiled for, so only here.
    sizes = (9, 9, 5)
    data = [(rng.standard_normal((m, 6)), rng.integers(0, 4, m, dtype=np.int32)) for m in sizes]
    return Problem("mlp", _weights(0, shapes), data)


def _cnn() -> Problem:
    rng = np.random.default_rng(2)
    shapes = {
        "kernel1": (3, 3, 2, 5),
        "bias1": (5,),
        "kernel2": (3, 3, 5, 4),
        "bias2": (4,),
        "dense": (36, 3),
        "bias": (3,),
    }
    data = [(rng.standard_normal((m, 6, 6, 2)), rng.integers(0, 3, m, dtype=np.int32)) for m in (5, 5)]
    return Problem("cnn", _weights(1, shapes), data)


def _transformer() -> Problem:
    rng = np.random.default_rng(3)
    tokens, length = 10, 6
    shapes = {
        "embedding": (tokens, WIDTH),
        "positions": (length, WIDTH),
        "norm1_scale": (WIDTH,),
        "norm1_shift": (WIDTH,),
        "qkv": (WIDTH, 3 * WIDTH),
        "out": (WIDTH, WIDTH),
        "norm2_scale": (WIDTH,),
        "norm2_shift": (WIDTH,),
        "up": (WIDTH, 2 * WIDTH),
        "up_bias": (2 * WIDTH,),
        "down": (2 * WIDTH, WIDTH),
        "down_bias": (WIDTH,),
        "head": (WIDTH, tokens),
    }
    data = []
    for m in (4, 4):
        text = rng.integers(0, tokens, (m, length + 1), dtype=np.int32)
        data.append((text[:, :-1], text[:, 1:]))
    return Problem("transformer", _weights(2, shapes), data)


def _wide_and_deep() -> Problem:
    rng = np.random.default_rng(4)
    # Row 0 of the first table occurs in no batch: its Hessian rows are zero.
    sizes = (30, 20)
    shapes = {
        "table1": (sizes[0], 4),
        "table2": (sizes[1], 4),
        "w1": (11, 16),
        "b1": (16,),
        "w2": (16, 1),
        "b2": (1,),
        "wide1": (sizes[0],),
        "wide2": (sizes[1],),
        "wide_dense": (3,),
    }
    data = []
    for m in (17, 17):
        x = np.stack([rng.integers(1, sizes[0], m), rng.integers(0, sizes[1], m)], axis=1).astype(np.float64)
        # Indices and dense features in one array, as tables come: indices are exact in floating point.
        data.append(
            (np.concatenate([x, rng.standard_normal((m, 3))], axis=1), rng.integers(0, 2, m).astype(np.float64))
        )
    return Problem("wide and deep", _weights(3, shapes), data, "bernoulli")


PROBLEMS = {problem.name: problem for problem in (_mlp(), _cnn(), _transformer(), _wide_and_deep())}
