"""Compiled functions of one loss for batches of one form, which later objectives of the same loss find again."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from specop.arrays.processes import Processes
from specop.errors import InvalidInputError
from specop.objectives.refusals import no_scalar, not_real_outputs, refusing_global_draws
from specop.objectives.trees import Frame
from specop_jax.compiled import compiled
from specop_jax.form import Form
from specop_jax.models import Loss
from specop_jax.spread import is_spread
from specop_jax.structures import checksum

__all__ = [
    "NO_DERIVATIVE",
    "Arguments",
    "Form",
    "Functions",
    "Multiply",
    "Product",
    "Program",
    "Status",
    "check_same",
    "find",
    "other_program",
    "shape_of",
]

Arguments = tuple[list[Any], list[Any], list[Any]]
"""Selected leaves, all leaves with None for those, and leaves of the batch."""

Multiply = Callable[[Array], Array]

Status = tuple[Array | bool, Array | float]
"""Whether all outputs are finite, and the loss if the result depends on it."""

P = TypeVar("P", bound="Program")

# How many programs outlive their objective. They hold what the user's function captured.
_KEPT = 32
# What JAX raises where an operation has no derivative of the kind it is asked for.
NO_DERIVATIVE = (TypeError, ValueError, NotImplementedError)


@dataclass(frozen=True)
class Product:
    """A product, how it went, what multiplies further vectors, and the arrays that this holds."""

    status: Status
    first: Array
    apply: Multiply
    held: list[Array]


class Program:
    """Base of compiled functions of `Arguments`.

    Parameters
    ----------
    functions : Functions
        Functions of the loss.
    form : Form
        Form that says how vectors are cut into parameters.
    outputs : jax.ShapeDtypeStruct or None
        Shape and dtype of the outputs, if the functions need them.
    captured : sequence of arrays
        What the loss captured, alive as long as their identities tell programs apart.
    text : str
        What the loss and its gradient compute.
    """

    needs_outputs = False

    def __init__(self, functions: Functions, form: Form, outputs: Any, captured: Sequence[Any], text: str) -> None:
        self.functions = functions
        self.form = form
        self.dtype = form.dtype
        self.outputs = outputs
        self.captured = captured
        self.text = text

    def compiled(self, function: Callable[..., Any], **options: Any) -> Any:
        """Return a compiled function of arrays that lie where vectors do."""
        return compiled(function, self.form.mesh, **options)


@dataclass(frozen=True)
class Functions:
    """Loss, outputs and criterion of a model for a batch in a frame."""

    loss: Loss
    frame: Frame

    def value(self, points: list[Array], others: list[Any], arrays: list[Array]) -> Array:
        """Return the mean loss."""
        return _mean(self.loss(_merged(points, others), self.frame.fill(arrays)))

    def again(self, points: list[Array], others: list[Any], arrays: list[Array]) -> tuple[Array, list[str]]:
        """Return the mean loss in the next call, and the names of what the first one has changed."""
        found, changed = self.loss.again(_merged(points, others), self.frame.fill(arrays))
        return _mean(found), changed

    def outputs(self, points: list[Array], others: list[Any], arrays: list[Array]) -> Array:
        """Return what the criterion is given."""
        found = self.loss.outputs(_merged(points, others), self.frame.fill(arrays))
        if not isinstance(found, Array) or not jnp.issubdtype(found.dtype, np.floating) or found.size == 0:
            what = f"{found.dtype} of shape {found.shape}" if isinstance(found, Array) else type(found).__name__
            raise not_real_outputs(what)
        return found

    def criterion(self, arrays: list[Array]) -> Callable[[Array], Array]:
        """Return the mean loss of a batch as a function of outputs."""
        return lambda z: _mean(self.loss.compare(z, self.frame.fill(arrays)))


def find(kind: type[P], loss: Loss, frame: Frame, form: Form, arguments: Arguments) -> P:
    """Return the program of a loss for batches of this form: that of an earlier objective if it is the same.

    The same function need not compute the same again: it may read a variable that has changed. The trace of its
    gradient decides, which takes a small part of the time of compilation.

    Parameters
    ----------
    kind : type
        A subclass of `Program`.
    loss : callable
        ``loss(leaves, batch)``: hashable, without arrays of its own.
    frame : Frame
        What puts a batch together from its arrays.
    form : Form
        Form of the parameters and of the vectors.
    arguments : Arguments
        Arguments of the program, of which only the shapes matter.
    """
    functions = Functions(loss, frame)

    def value(points: list[Array], others: list[Any], arrays: list[Array]) -> tuple[Array, Array | None]:
        if not kind.needs_outputs:
            return functions.value(points, others, arrays), None
        z = functions.outputs(points, others, arrays)
        return functions.criterion(arrays)(z), z

    shapes = jax.tree_util.tree_map(shape_of, arguments)
    try:
        with refusing_global_draws():
            found, returned = jax.make_jaxpr(jax.value_and_grad(value, has_aux=True), return_shape=True)(*shapes)
    except jax.errors.JAXTypeError as error:
        raise InvalidInputError(
            f"the loss cannot be compiled by jax.jit, which specop needs it to be: {error} Write branches on values "
            f"with jax.numpy.where or jax.lax.cond, and compute with jax.numpy instead of NumPy."
        ) from error
    except NO_DERIVATIVE as error:
        # An exception of the loss itself is its author's: it comes again, and as it is.
        jax.make_jaxpr(value)(*shapes)
        raise InvalidInputError(
            f"JAX has no gradient of the loss: {error} Replace that operation by others."
        ) from error
    (_, z), _ = returned
    outputs = None if z is None else jax.ShapeDtypeStruct(z.shape, z.dtype, sharding=form.sharding_of(z))
    # JAX's own arrays are immutable; a NumPy array may have been written into.
    for constant in found.consts:
        if isinstance(constant, Array) and not constant.is_fully_addressable:
            raise InvalidInputError(
                f"the loss reads an array of shape {constant.shape} besides parameters and batch that is spread over "
                f"several processes, which JAX does not compile. Put it into the batch, or into the parameters and "
                f"leave it out by select=."
            )
    captured = tuple((id(c), None if isinstance(c, Array) else checksum(c)) for c in found.consts)
    kept = _Unhashed((functions, outputs, found.consts))
    return _program(kind, loss, form, str(found.jaxpr), captured, kept)  # type: ignore[arg-type]


def check_same(program: Program, processes: Processes) -> None:
    """Raise InvalidInputError unless processes compute the same: their devices wait for each other in one program."""
    differing = other_program(program.text, program.captured, processes)
    if differing is not None:
        number, what = differing
        raise InvalidInputError(
            f"the loss is another function of parameters and batch in process {number} of {processes.count} than in "
            f"process 0, by {what}. Pass the same function in each; what differs between them, such as a part of the "
            f"data, belongs into the batch, by jax.make_array_from_process_local_data."
        )


def other_program(text: str, captured: Sequence[Any], processes: Processes) -> tuple[int, str] | None:
    """Return a process that would run another program than the first one, and by what that differs, or None.

    Parameters
    ----------
    text : str
        What it computes, as JAX prints a trace.
    captured : sequence of arrays
        Constants that the program has captured.
    processes : Processes
        Processes that make this call together.
    """
    if processes.count == 1:
        return None
    # Functions are printed with their addresses.
    text = re.sub("0x[0-9a-f]+", "", text)
    told = processes.exchange((zlib.crc32(text.encode()), [*map(checksum, captured)]))
    other = next((number for number, one in enumerate(told) if one != told[0]), None)
    if other is None:
        return None
    is_text = told[other][0] != told[0][0]
    return other, "operations" if is_text else "the entries of an array that it reads besides them"


@functools.lru_cache(_KEPT)
def _program(kind: type[Any], loss: Loss, form: Form, text: str, captured: Any, kept: _Unhashed) -> Any:
    # Frames with the same trace differ in constants that the loss does not use, such as file names.
    functions, outputs, constants = kept.value
    return kind(functions, form, outputs, constants, text)


class _Unhashed:
    """An argument that does not tell calls of a cached function apart."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashed)

    def __hash__(self) -> int:
        return 0


def shape_of(array: Any) -> jax.ShapeDtypeStruct:
    """Return what is traced in place of an array."""
    # Where the axes of a mesh are explicit, how an array is cut belongs to its type.
    sharding = array.sharding if is_spread(array) else None
    weak_type = getattr(array, "weak_type", False)
    return jax.ShapeDtypeStruct(array.shape, array.dtype, weak_type=weak_type, sharding=sharding)


def _merged(points: list[Array], others: list[Any]) -> list[Any]:
    chosen = iter(points)
    return [next(chosen) if other is None else other for other in others]


def _mean(found: Any) -> Array:
    """Return a loss as a scalar, or raise InvalidInputError unless it is one real number."""
    shape = getattr(found, "shape", () if isinstance(found, float) else None)
    if shape is None or np.prod(shape) != 1 or not jnp.issubdtype(jnp.result_type(found), np.floating):
        what = type(found).__name__ if shape is None else f"{jnp.result_type(found)} of shape {tuple(shape)}"
        raise no_scalar(what, found)
    return jnp.reshape(found, ())
