"""The trained benchmark models as arrays in the layout that JAX and TensorFlow users have: channels last."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from models import Problem

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Port:
    """A trained model outside of torch.

    `weights` are kernels (height, width, in, out), matrices (in, out), tables and vectors, by name; `inputs` and
    `targets` are the one batch; `heads` is that of the transformer, `columns` that of Wide&Deep.
    """

    name: str
    weights: Arrays
    inputs: NDArray[np.generic]
    targets: NDArray[np.generic]
    heads: int = 0
    columns: int = 0

    @property
    def likelihood(self) -> str:
        """What the criterion is the negative logarithm of."""
        return "bernoulli" if self.name == "wide_deep" else "categorical"


@dataclass(frozen=True)
class Task:
    """A ported model in a framework: outputs of (parameters, batch), criterion of (outputs, targets), and data."""

    outputs: Callable[[Any, Any], Any]
    criterion: Callable[[Any, Any], Any]
    params: dict[str, Any]
    batch: tuple[Any, Any]
    likelihood: str

    def loss(self, params: dict[str, Any], batch: tuple[Any, Any]) -> Any:
        """Return the mean loss of a batch."""
        return self.criterion(self.outputs(params, batch), batch[1])


def port(problem: Problem) -> Port:
    """Return the weights and the batch of a problem as NumPy arrays.

    The Hessian of the same loss has the same eigenvalues: its rows and columns are permuted.
    """
    (batch,) = problem.batches
    inputs, targets = (part.numpy() for part in batch)
    weights: Arrays = {}
    image: tuple[int, ...] = ()
    for name, module in problem.model.named_modules():
        own = {f"{name}.{key}".lstrip("."): value for key, value in module.named_parameters(recurse=False)}
        for key, value in own.items():
            array = value.detach().numpy()
            if isinstance(module, nn.Conv2d) and array.ndim == 4:
                array, image = array.transpose(2, 3, 1, 0), array.shape[:1]
            elif isinstance(module, nn.Linear) and array.ndim == 2:
                array = _channels_last(array, image).T
                image = ()
            weights[key] = np.ascontiguousarray(array)
    if problem.name == "transformer":
        return Port(problem.name, weights, inputs, targets, heads=problem.model.blocks[0].heads)
    if problem.name == "wide_deep":
        return Port(problem.name, weights, inputs, targets, columns=problem.model.columns)
    return Port(problem.name, weights, np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)), targets)


def _channels_last(matrix: NDArray[np.generic], image: tuple[int, ...]) -> NDArray[np.generic]:
    """Reorder the columns of the first matrix after convolutions: it sees a flattened image."""
    if not image:
        return matrix
    (channels,) = image
    side = round((matrix.shape[1] / channels) ** 0.5)
    return matrix.reshape(-1, channels, side, side).transpose(0, 2, 3, 1).reshape(matrix.shape)
