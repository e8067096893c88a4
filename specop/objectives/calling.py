"""Calling: what a model and its criterion are called with, and what they make of a batch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from specop.errors import InvalidInputError, SpecopError
from specop.objectives.refusals import no_outputs
from specop.objectives.trees import Constant, leaves_of

__all__ = [
    "Calling",
    "Criterion",
    "Forward",
    "call_on_inputs",
    "calling_function",
    "calling_module",
    "check_takes_two",
    "inputs",
    "is_pair",
    "is_weighted",
    "needs_criterion",
]

Forward = Callable[[Any, Any], Any]
Criterion = Callable[..., Any]

# What frameworks say of a dtype that an operation does not take.
_DTYPE = re.compile(r"dtype|scalar type|Input type|has type|DataType|tensor but is a|not implemented for '")
# And of a layer that draws, but was given nothing to draw with.
_KEY = re.compile(r"requires a key|PRNGKey")


@dataclass(frozen=True)
class Calling:
    """A function of a model, or of parameters, and a batch; with a criterion or without one.

    Equal only to what calls the same functions, and hashable, whatever these are.

    Parameters
    ----------
    function : Constant
        ``function(model, batch)``: outputs, or the mean loss if there is no criterion.
    criterion : Constant
        ``criterion(outputs, y)`` of a batch (x, y), or ``criterion(outputs, batch)``; or None.
    is_whole : bool
        Whether the criterion is given every batch whole.
    weighs : bool
        Whether a batch may be (x, y, weights of samples), which the criterion then takes as a third argument.
    """

    function: Constant
    criterion: Constant
    is_whole: bool
    weighs: bool = False

    def loss(self, model: Any, batch: Any) -> Any:
        """Return the mean loss."""
        found = self._called(model, batch)
        return found if self.criterion.value is None else self.compare(found, batch)

    def outputs(self, model: Any, batch: Any) -> Any:
        """Return what the criterion is given, or raise where there is none."""
        if self.criterion.value is None:
            raise no_outputs()
        return self._called(model, batch)

    def compare(self, outputs: Any, batch: Any) -> Any:
        """Return the criterion's value."""
        given = (batch,)
        if not self.is_whole and (is_pair(batch) or (self.weighs and is_weighted(batch))):
            given = tuple(batch[1:])
        with _explaining(batch):
            return self.criterion.value(outputs, *given)

    def _called(self, model: Any, batch: Any) -> Any:
        with _explaining(batch):
            return self.function.value(model, batch)


@contextmanager
def _explaining(batch: Any) -> Iterator[None]:
    """Turn an error of the user's functions that comes from the batch's types into an InvalidInputError."""
    try:
        yield
    except SpecopError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        advice = _advice(batch, str(error))
        if advice is None:
            raise
        text = str(error).strip().partition("\n")[0].rstrip(".")
        raise InvalidInputError(f"the model or the criterion fails on the batch: {text}. {advice}") from error


def _advice(batch: Any, text: str) -> str | None:
    """Return what is unusual about a batch on which the model fails, and what to do, or None."""
    if _may_be_batches(batch):
        return (
            f"A tuple is one batch, here of {len(batch)} parts that are tuples of {len(batch[0])} themselves: if those "
            f"are the batches, pass a list of them."
        )
    if _KEY.search(text):
        return (
            "Switch dropout and sampling off (equinox.nn.inference_mode(model), deterministic=True), or give them one "
            "fixed key in the function or in forward=, for the curvature under one mask."
        )
    if isinstance(batch, Mapping) and "unexpected keyword argument" in text:
        return (
            f"A batch that is a mapping is passed as model(**batch), here with {', '.join(map(str, batch))}. For a "
            f"model that takes it otherwise pass forward=lambda model, batch: ..., which returns the mean loss where "
            f"there is no criterion, or pairs (x, y) with a mapping as x."
        )
    leaves = list(leaves_of(batch))
    arrays = [leaf for leaf in leaves if getattr(leaf, "shape", ())]
    strange = [leaf for leaf in arrays if type(leaf).__module__.partition(".")[0] in ("numpy", "pandas", "scipy")]
    is_whole = isinstance(batch, (tuple, list, Mapping)) and not is_pair(batch)
    # TensorFlow makes a tensor of a tuple where it can, and names the argument where it cannot.
    if is_whole and (type(batch).__name__ in text or "to a tensor" in text):
        return (
            f"A criterion is called with (outputs, batch) where a batch is no pair (x, y), here a {_kind(batch)}: let "
            f"it take the parts that it needs, such as lambda outputs, batch: criterion(outputs, batch[1])."
        )
    if strange:
        kind = " of ".join(filter(None, (type(strange[0]).__name__, str(getattr(strange[0], "dtype", "")))))
        return f"It holds a {kind}, which was passed on as it is: convert it into an array of the model's framework."
    if leaves and not arrays:
        return "It holds no array, but plain Python values: convert them into arrays of the model's framework."
    if "Inference tensors" in text:
        return "The model reads a tensor, no parameter or buffer, that was created in inference mode: clone it outside."
    # What decides on values that a trace does not have says so, and may name the inputs' dtypes besides.
    if _DTYPE.search(text) and "as a Python `bool`" not in text:
        held = ", ".join(f"{leaf.dtype} of shape {tuple(leaf.shape)}" for leaf in arrays)
        return f"The batch holds {held}: convert inputs to the dtype of the parameters, and class labels to integers."
    return None


def _may_be_batches(batch: Any) -> bool:
    """Whether a batch is a tuple of what could be batches: of as many parts each, which are arrays."""
    return (
        isinstance(batch, tuple)
        and len(batch) > 0
        and all(isinstance(part, tuple) and part and all(hasattr(one, "shape") for one in part) for part in batch)
        and len({len(part) for part in batch}) == 1
    )


def calling_function(function: Any, criterion: Criterion | None, forward: Forward | None) -> Calling:
    """Return how a function of (params, batch) is called."""
    if not callable(function):
        raise InvalidInputError(f"expected a module or a function of (params, batch), got {type(function).__name__}.")
    if forward is not None:
        raise InvalidInputError("forward= is for modules; a function computes its outputs itself.")
    check_takes_two(function, "the function", "(params, batch)")
    check_takes_two(criterion, "the criterion", "(outputs, y)")
    return Calling(Constant(function), Constant(criterion), False)


def call_on_inputs(model: Any, batch: Any) -> Any:
    """Return ``model(x)`` for a batch (x, y)."""
    return model(inputs(batch))


def calling_module(
    criterion: Criterion | None,
    forward: Forward | None,
    example: str,
    call: Forward = call_on_inputs,
    *,
    weighs: bool = False,
) -> Calling:
    """Return how a module is called.

    Parameters
    ----------
    criterion : callable or None
        ``criterion(outputs, y)`` or, with `forward`, ``criterion(outputs, batch)``. None for a module that returns its
        own mean loss, or for one whose loss `forward` returns.
    forward : callable or None
        ``forward(module, batch) -> outputs``, or the mean loss without a criterion.
    example : str
        A criterion, for the error where there must be one.
    call : callable
        ``call(module, batch) -> outputs`` for a batch (x, y).
    weighs : bool
        Whether the criterion takes weights of samples, too.
    """
    if criterion is None and forward is None:
        return Calling(Constant(_OwnLoss(example)), Constant(None), True)
    check_takes_two(criterion, "the criterion", "(outputs, y)" if forward is None else "(outputs, batch)")
    check_takes_two(forward, "forward", "(model, batch)")
    return Calling(Constant(call if forward is None else forward), Constant(criterion), forward is not None, weighs)


def needs_criterion(example: str) -> InvalidInputError:
    """Error for a module without a criterion that does not return its own loss."""
    return InvalidInputError(
        f"a module needs a criterion: objective(model, criterion, data), {example}. A model that returns its own loss "
        f"is called with batches that are mappings, model(**batch).loss; for another one pass forward=lambda model, "
        f"batch: ..., which returns the mean loss where there is no criterion."
    )


@dataclass(frozen=True)
class _OwnLoss:
    """Calls a model that returns its mean loss, as those of Hugging Face do where a batch has labels."""

    example: str

    def __call__(self, model: Any, batch: Any) -> Any:
        if not isinstance(batch, Mapping):
            raise needs_criterion(self.example)
        found = model(**batch)
        if isinstance(found, Mapping) and "loss" in found:
            loss = found["loss"]
        elif hasattr(found, "loss"):
            loss = found.loss
        else:
            return found
        if loss is None:
            raise InvalidInputError(
                f"the model returned no loss for a batch of {', '.join(map(repr, batch))}: most compute one where the "
                f"batch has 'labels', for a causal language model its 'input_ids'. Or pass a criterion of (outputs, "
                f"batch), and forward=lambda model, batch: model(**batch).logits."
            )
        return loss


def check_takes_two(function: Any, name: str, arguments: str) -> None:
    """Raise InvalidInputError if a function is known not to be called with two arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # There is none, or it is not known.
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise InvalidInputError(
            f"{name} is called with two arguments, {arguments}, and takes {signature}: {error}. One may be unused."
        ) from error


def is_pair(batch: Any) -> bool:
    """Whether a batch is a pair (x, y)."""
    return isinstance(batch, (tuple, list)) and len(batch) == 2


def is_weighted(batch: Any) -> bool:
    """Whether a batch may be (x, y, weights of samples)."""
    return isinstance(batch, (tuple, list)) and len(batch) == 3


def inputs(batch: Any, *, weighted: bool = False) -> Any:
    """Return x of a batch (x, y), or where that is allowed of (x, y, weights of samples)."""
    if is_pair(batch) or (weighted and is_weighted(batch)):
        return batch[0]
    advice = ""
    if isinstance(batch, (tuple, list)) and len(batch) == 3:
        advice = (
            " If the third part holds weights of samples: forward=lambda model, batch: model(batch[0]) and, with the "
            "loss of each sample, lambda outputs, batch: (batch[2] * losses(outputs, batch[1])).mean()."
        )
    raise InvalidInputError(
        f"a batch must be a pair (x, y), for model(x) and criterion(outputs, y); got {_kind(batch)}. For other batches "
        f"pass forward=lambda model, batch: ..., and a criterion of (outputs, batch). If the data is one batch "
        f"[x, y], pass it as a tuple.{advice}"
    )


def _kind(batch: Any) -> str:
    return f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
