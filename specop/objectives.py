"""Objective: a model, a criterion, parameters and data as one function of a vector, and its derivatives."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from specop.autodiff import Autodiff
from specop.backend import Array, framework_adapter
from specop.batches import Batches
from specop.errors import InvalidInputError, ParametersChangedError
from specop.operators.base import LinearOperator
from specop.operators.curvature import HessianOperator, HessianProducts, accumulate

__all__ = ["Objective", "objective"]


def objective(
    model: Any,
    criterion: Callable[..., Any] | None = None,
    data: Any = None,
    *,
    params: Any = None,
    select: Any = None,
    forward: Callable[[Any, Any], Any] | None = None,
    weight: Callable[[Any], float] | None = None,
    memory_budget: int | None = None,
    fixed_randomness: int | None = None,
) -> Objective:
    r"""Describe the mean loss of a model over data as a function of a parameter vector.

    .. math:: L(\theta) = \sum_b \frac{w_b}{\sum_c w_c} \, \ell_b(\theta)

    with the mean loss :math:`\ell_b` of batch b and its number of terms :math:`w_b`: the exact mean over all data,
    however they are split into batches. Nothing of the model is changed: parameters, buffers, ``.grad``,
    ``requires_grad``, modes and random states are left as they were found, also after an exception.

    Parameters
    ----------
    model : torch.nn.Module, keras.Model, tf.Module, flax.nnx.Module, equinox.Module or callable
        A module; or ``fun(params, batch)``, which returns the mean loss, or outputs if there is a criterion.
    criterion : callable, optional
        Mean loss ``criterion(outputs, y)`` of a batch ``(x, y)``; with `forward`, ``criterion(outputs, batch)``.
        Required for a module. A ``keras.losses.Loss`` is called as Keras does, ``criterion(y, outputs)``.
    data : batch or re-iterable of batches
        A tuple, mapping, dataclass or array is one batch. Lists and data loaders are iterables of batches. Arrays are
        moved to the parameters' device batch by batch.
    params : structure of arrays, optional
        The parameters of a plain function: nested dicts, lists and tuples, in JAX any pytree. In JAX the function is
        compiled: Python values that it reads are those of the first call.
    select : str, list, module or callable, optional
        A part of the parameters: a name pattern such as ``"blocks.*.attn.*"``, the name of a module, a list of
        those or of parameters, a module, or a predicate of (name, parameter). Default: all that require grad.
    forward : callable, optional
        ``forward(model, batch) -> outputs``, for batches that are not pairs, and for models of single samples:
        ``lambda model, batch: jax.vmap(model)(batch[0])`` for most of equinox.
    weight : callable, optional
        ``weight(batch)``: number of terms in the batch's mean; default: its leading dimension. For language models
        with padding, the number of counted tokens.
    memory_budget : int, optional
        Bytes for kept batches and linearizations; default: half of what is free on the device. Beyond it, products
        are recomputed batch by batch.
    fixed_randomness : int, optional
        Seed under which every forward pass runs, for the curvature of a loss with dropout under one fixed mask, or
        with batch normalization in training mode. Without it both raise.

    Returns
    -------
    Objective

    Examples
    --------
    >>> import torch, specop
    >>> model = torch.nn.Linear(3, 1)
    >>> data = (torch.randn(8, 3), torch.randn(8, 1))
    >>> H = specop.objective(model, torch.nn.functional.mse_loss, data).hessian()
    >>> H.shape
    (4, 4)
    """
    if params is None and (inspect.isroutine(model) or isinstance(model, functools.partial)):
        raise InvalidInputError(
            "a plain function needs the parameters it is given: objective(fun, params=..., data=...)."
        )
    adapter = framework_adapter(_representative(model, params))
    if not hasattr(adapter, "make_autodiff"):
        raise InvalidInputError(
            f"{adapter.backend.name} arrays have no derivatives: pass parameters of a framework that has automatic "
            f"differentiation, or wrap your own product in specop.FunctionOperator."
        )
    if data is None and params is None:
        raise InvalidInputError("data is missing: objective(model, criterion, data).")
    if memory_budget is not None and memory_budget < 0:
        raise InvalidInputError(f"memory_budget must be a number of bytes >= 0, got {memory_budget!r}.")
    autodiff = adapter.make_autodiff(
        model, criterion, params=params, select=select, forward=forward, fixed_randomness=fixed_randomness
    )
    budget = (lambda: int(autodiff.free_memory() // 2)) if memory_budget is None else (lambda: int(memory_budget))
    return Objective(autodiff, Batches(data, autodiff, weight, budget), budget)


class Objective:
    """The mean loss over a data set as a function of a parameter vector; made by `objective`.

    Parameters
    ----------
    autodiff : Autodiff
        One-batch derivatives.
    data : Batches
    budget : callable
        Returns the bytes that batches and linearizations may take.
    """

    def __init__(self, autodiff: Autodiff, data: Batches, budget: Callable[[], int]) -> None:
        self._autodiff = autodiff
        self._data = data
        self._budget = budget
        self._linearized: tuple[Any, HessianProducts] | None = None

    @property
    def n(self) -> int:
        """Number of selected parameters."""
        return self._autodiff.layout.n

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the selected parameters, in the order of the vector."""
        return self._autodiff.names

    @property
    def samples(self) -> int:
        """Number of samples in the data."""
        return self._data.samples

    def loss(self, theta: Array | None = None) -> Array:
        """Return the mean loss as a native scalar.

        Parameters
        ----------
        theta : native vector (n,), optional
            Where; default: the model's current parameters.
        """
        self._check(theta)
        total: Array | None = None
        with self._unchanged(), self._data.reading() as batches:
            for batch, share in batches:
                part = self._autodiff.loss(theta, batch) * share
                total = part if total is None else total + part
        return total

    def gradient(self, theta: Array | None = None) -> Array:
        """Return the gradient of the mean loss as a native vector (n,)."""
        self._check(theta)
        total: Array | None = None
        with self._unchanged(), self._data.reading() as batches:
            for batch, share in batches:
                _, part = self._autodiff.gradient(theta, batch)
                total = accumulate(self._autodiff.backend, total, share, part)
        return total

    def hessian(self, theta: Array | None = None) -> LinearOperator:
        r"""Return the Hessian :math:`\nabla^2 L(\theta)` of the mean loss as a symmetric operator, n x n.

        The operator belongs to one point. Used after the model has changed, it raises ParametersChangedError; a new
        ``hessian()`` is then of the new point. With `theta` the point is fixed: only what was not selected must stay
        as it is. The first product linearizes each batch once, within the memory budget;
        later products run the linear part only.

        Parameters
        ----------
        theta : native vector (n,), optional
            Where; default: the model's current parameters.
        """
        self._check(theta)
        fixed = theta is not None
        fingerprint = self._autodiff.fingerprint(fixed=fixed)
        if fixed:
            products = HessianProducts(self._autodiff, self._data, self._budget, self._autodiff.backend.copy(theta))
        elif self._linearized is not None and self._linearized[0] == fingerprint:
            products = self._linearized[1]
        else:
            products = HessianProducts(self._autodiff, self._data, self._budget, None)
            self._linearized = (fingerprint, products)
        return HessianOperator(products, lambda: self._unchanged(fingerprint, fixed))

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure, for a module a mapping from names to tensors, as a native vector."""
        return self._autodiff.flatten(tree)

    def unflatten(self, vector: Array) -> Any:
        """Return a native vector in the structure of the parameters."""
        return self._autodiff.unflatten(vector)

    def restrict(self, select: Any) -> Objective:
        """Return the objective as a function of a part of its parameters; the others stay where they are.

        Parameters
        ----------
        select : str, list, module or callable
            As in `objective`.
        """
        return Objective(self._autodiff.restrict(select), self._data, self._budget)

    def release(self) -> None:
        """Free the linearizations that are kept for further products; they are made again when needed."""
        if self._linearized is not None:
            self._linearized[1].release()
            self._linearized = None

    def __repr__(self) -> str:
        layout = self._autodiff.layout
        return f"<Objective of {self.n} parameters in {len(self.names)} arrays, {layout.dtype}, {layout.device}>"

    def _check(self, theta: Array | None) -> None:
        if theta is not None:
            self._autodiff.backend.check_vector(theta, self._autodiff.layout, "theta")

    @contextmanager
    def _unchanged(self, fingerprint: Any = None, fixed: bool = False) -> Iterator[None]:
        """Raise unless the model is at the given fingerprint, by default its present one, at entry and exit."""
        found = self._autodiff.fingerprint(fixed=fixed)
        if fingerprint is not None and found != fingerprint:
            raise ParametersChangedError(
                "the model's parameters, buffers or modes have changed since this operator was made, so its products "
                "would belong to neither point. Make a new one with objective.hessian(), or fix the point with "
                "objective.hessian(theta)."
            )
        self._data.check_unchanged()
        with self._autodiff.preserved():
            yield
        self._data.check_unchanged()
        if self._autodiff.fingerprint(fixed=fixed) != found:
            raise ParametersChangedError(
                "the model's parameters, buffers or modes changed during this call. Do not train or load weights "
                "while curvature is computed; if the forward pass updates the model itself, call model.eval()."
            )


def _representative(model: Any, params: Any) -> Any:
    """Return what shows the framework: a module, or of a parameter structure its first native array."""
    if params is None:
        return model
    leaves = list(_leaves(params))
    if not leaves:
        raise InvalidInputError("params is empty: there is nothing to differentiate with respect to.")
    # Numbers, settings and NumPy arrays may stand beside the framework's own arrays.
    arrays = [leaf for leaf in leaves if hasattr(leaf, "shape")]
    native = [array for array in arrays if type(array).__module__.partition(".")[0] != "numpy"]
    return (native or arrays or leaves)[0]


def _leaves(structure: Any) -> Iterator[Any]:
    inside: Iterable[Any]
    if isinstance(structure, Mapping):
        inside = structure.values()
    elif isinstance(structure, (list, tuple)):
        inside = structure
    elif dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        inside = (getattr(structure, field.name) for field in dataclasses.fields(structure))
    else:
        if structure is not None:
            yield structure
        return
    for item in inside:
        yield from _leaves(item)
