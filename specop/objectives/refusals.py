"""What every framework's adapter refuses, in the same words."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from specop.errors import InvalidInputError, MissingOutputsError, NondeterministicError, NonFiniteError

__all__ = [
    "are_equal",
    "changing_loss",
    "check_compiles",
    "check_processes",
    "check_samples_first",
    "complex_parameters",
    "criterion_of_parameters",
    "dependent_samples",
    "independent",
    "layer_in_training_mode",
    "layer_mixes_samples",
    "no_mean",
    "no_outputs",
    "no_scalar",
    "not_finite",
    "not_real_outputs",
    "not_trainable",
    "refusing_global_draws",
    "untrained_gradient",
    "wrong_likelihood",
]

_PARAMETERS = {
    "categorical": "the logits of all classes in the last dimension (or in the second, as for torch's cross_entropy)",
    "bernoulli": "one logit each",
    "gaussian": "the mean as output and a fixed variance",
}


def check_samples_first(shape: Sequence[int], count: int) -> None:
    """Raise InvalidInputError unless the outputs' leading dimension is the number of samples."""
    if not shape or shape[0] != count:
        raise InvalidInputError(
            f"the outputs have shape {tuple(shape)}, but the batch has {count} samples: which rows belong to "
            f"which sample is not known. Return outputs with the samples first, and flatten them in the criterion."
        )


def check_compiles(compile: Any, framework: str, offered: bool) -> None:
    """Raise InvalidInputError where compiled products are asked for that the adapter has not."""
    if compile is not True:
        raise InvalidInputError(f"compile must be True or False, got {compile!r}: there are no modes to choose from.")
    if not offered:
        why = "of parameters in parts are not recorded" if framework == "torch" else "are compiled programs already"
        raise InvalidInputError(f"compile=True is not for these: products in {framework} {why}. Leave it out.")


def check_processes(processes: int, parallel: Any, offered: bool) -> None:
    """Raise InvalidInputError unless it is clear what one process of several is to do.

    Parameters
    ----------
    processes : int
        Number of processes, or replicas, in the framework's group.
    parallel : object
        The argument ``parallel`` as the user gave it.
    offered : bool
        Whether the framework's adapter lets processes work together.
    """
    together = "all processes together" + ("" if offered else ", is not available yet with this framework")
    if parallel is None and processes > 1:
        raise InvalidInputError(
            f"this is one of {processes} processes, and its data may be a part of all. Pass parallel=False to look at "
            f"the model and the data of this process alone, as when only the first process does it; parallel=True, "
            f"{'the data of ' if offered else ''}{together}."
        )
    if parallel not in (None, False) and not offered:
        raise InvalidInputError(
            f"parallel=True, the data of {together}. Give one process all data, and pass parallel=False there."
        )


def complex_parameters(names: Sequence[str]) -> InvalidInputError:
    """Error for parameters that are trained and complex."""
    return InvalidInputError(
        f"{len(names)} parameters are complex, such as {names[0]!r}; curvature is that of real ones. Hold real and "
        f"imaginary parts as one real array with a last dimension of 2, and make the complex one in the forward pass; "
        f"or leave them out, as constants, by select=."
    )


def criterion_of_parameters() -> InvalidInputError:
    """Error for a criterion that is no function of the outputs alone where that is needed."""
    return InvalidInputError(
        "the criterion reads the parameters itself, as a penalty does. Gauss-Newton and Fisher matrices and gradients "
        "of samples come from its derivatives in the outputs, and would lack that part; loss, gradient and Hessian "
        "have it. Take the penalty out of the criterion and add its own curvature, such as "
        "2 * weight_decay * specop.identity_like(A)."
    )


@contextmanager
def refusing_global_draws() -> Iterator[None]:
    """Raise NondeterministicError if Python's or NumPy's global random state moves inside.

    No framework's seed fixes these, and what is traced or recorded would hold one draw forever.
    """
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    yield
    moved = ["random"] * (random.getstate() != python)
    moved += ["numpy.random"] * (not are_equal(np.random.get_state(legacy=False), numpy))
    if moved:
        raise NondeterministicError(
            f"the forward pass draws from the global generator of Python's module {moved[0]}, so every product would "
            f"be of another matrix. Switch the sampling off, or draw with the framework's own generator."
        )


def are_equal(one: Any, other: Any) -> bool:
    """Whether two copies of a state hold the same numbers, and otherwise the same objects."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(are_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(are_equal, one, other))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return one is other or (type(one).__module__ == "builtins" and bool(one == other))


def changing_loss(one: float, other: float, changed: Sequence[str]) -> NondeterministicError:
    """Error for a loss that is another one in the next call; `changed` are the attributes that the call changes."""
    where = f" The model changes its own {', '.join(map(repr, changed[:3]))}." if changed else ""
    return NondeterministicError(
        f"two calls of the loss on the same batch give {one:.9g} and {other:.9g}: it is no function of parameters and "
        f"data, and every product would be of another matrix.{where} Look for a counter, a memory or statistics that "
        f"a call updates, and for a random generator of the model's own: keep them fixed in evaluation, or let "
        f"forward= put them back."
    )


def untrained_gradient(own: float, plain: float, names: Sequence[str], remedy: str) -> InvalidInputError:
    """Error for a gradient that is not the one that the user's own call gives; `names` are the parameters concerned."""
    return InvalidInputError(
        f"the gradient of the loss is not the one that training sees: of {', '.join(map(repr, names[:3]))} it has the "
        f"norm {own:.6g}, and after loss.backward() {plain:.6g}. {remedy}"
    )


def no_outputs() -> MissingOutputsError:
    """Error for a function that returns the loss where outputs are needed."""
    return MissingOutputsError(
        "without a criterion the function returns the loss, and nothing is known of its outputs: only loss, "
        "gradient and Hessian exist. Let the function return outputs, and pass objective(fun, criterion, "
        "data, params=params); of a model that returns its own loss pass a criterion of (outputs, batch) and "
        "forward=lambda model, batch: model(**batch).logits."
    )


def no_mean(reduction: str, mean: str) -> InvalidInputError:
    """Error for a criterion that is no mean over the batch."""
    return InvalidInputError(
        f"the criterion has reduction={reduction!r}; curvature is defined here for the mean loss. Use "
        f"reduction={mean!r}; for the sum, multiply the operator by the number of terms that the mean divides by: "
        f"entries of the outputs for a squared error, counted tokens for a language model, samples for classes."
    )


def no_scalar(got: str, found: Any = None) -> InvalidInputError:
    """Error for a loss that is not one real number; `got` says what it is, where the loss itself does not."""
    remedy = "Use a criterion that takes the mean, or return the mean of the loss."
    if isinstance(found, (tuple, list)) and found:
        got = f"a {got} of {len(found)}"
        remedy = (
            "If the first entry is the loss, and the rest is there to be looked at (has_aux), take it: "
            "lambda params, batch: fun(params, batch)[0] for a function, lambda outputs, y: criterion(outputs, y)[0] "
            "for a criterion. If entries are to be added up, add them."
        )
    elif (isinstance(found, Mapping) and "loss" in found) or hasattr(found, "loss"):
        part = "['loss']" if isinstance(found, Mapping) else ".loss"
        remedy = (
            f"If {part} is the loss, return that alone: lambda params, batch: fun(params, batch){part} for a function, "
            f"lambda outputs, y: criterion(outputs, y){part} for a criterion."
        )
    return InvalidInputError(f"the loss must be one real number, the mean over the batch; got {got}. {remedy}")


def not_trainable(name: str, value: Any, convert: str) -> InvalidInputError:
    """Error for a parameter of a function that its framework does not differentiate.

    Parameters
    ----------
    name : str
        Place of the value among the parameters, such as ``layers.0.w``.
    value : object
        Value that cannot be trained.
    convert : str
        What makes an array of the framework of it, with the word VALUE for the value.
    """
    if isinstance(value, (bool, int, float, complex)):
        what, own = f"the Python number {value!r}", repr(value if isinstance(value, complex) else float(value))
    elif isinstance(value, (np.ndarray, np.generic)):
        what, own = f"a NumPy array of {value.dtype}, as a checkpoint holds it", f"params[{name!r}]"
    else:
        what, own = f"a {type(value).__name__}", f"params[{name!r}]"
    return InvalidInputError(
        f"the parameter {name!r} is {what}, in which nothing can be differentiated. If it is trained, pass "
        f"{convert.replace('VALUE', own)}; if it is a constant, leave it to the function itself."
    )


def not_real_outputs(got: str) -> InvalidInputError:
    """Error for outputs that are not one real array where a matrix is made of them; `got` says what they are."""
    return InvalidInputError(
        f"the outputs must be one real array, got {got}. Let forward=lambda model, batch: ... return the logits alone; "
        f"outputs of several heads go joined along the last axis, and the criterion cuts them."
    )


def independent(names: Sequence[str], hint: str) -> InvalidInputError:
    """Error for a loss that is constant; `hint` says what to look for in the forward pass."""
    return InvalidInputError(
        f"the loss does not depend on any of the {len(names)} selected parameters, such as {names[0]!r}. Select "
        f"parameters that the forward pass uses, and look for {hint} in it."
    )


def not_finite(what: str, bad: Sequence[str]) -> NonFiniteError:
    """Error for a loss or outputs that are not finite; `bad` are the names of parameters that are not either."""
    where = (
        f"These arrays, of the model or in theta, hold NaN or infinity: {', '.join(bad[:5])}. Restore them from a "
        f"checkpoint."
        if bad
        else "All parameters are finite: look at the data, and for log(0), division by zero or overflow."
    )
    return NonFiniteError(f"{what}. {where}")


def dependent_samples(start: int, stop: int) -> InvalidInputError:
    """Error for samples whose outputs in a batch are not those that they have alone."""
    return InvalidInputError(
        f"the outputs of samples {start} to {stop - 1} depend on the rest of their batch, so that gradients of single "
        f"samples do not exist. Layers that mix samples do so, such as batch normalization in training mode, and "
        f"dropout under one fixed mask: call model.eval()."
    )


def layer_mixes_samples(layer: str, remedy: str) -> InvalidInputError:
    """Error for batch normalization by the batch's own statistics where gradients of samples are asked for."""
    return InvalidInputError(
        f"layer {layer} is batch normalization in training mode, or without running statistics: a sample's outputs "
        f"depend on the whole batch, so that gradients of single samples do not exist. {remedy}."
    )


def layer_in_training_mode(layer: str, *, drops_out: bool) -> InvalidInputError:
    """Error for a layer that draws, or mixes samples, unless randomness is fixed."""
    what = (
        "has active dropout"
        if drops_out
        else "is batch normalization in training mode, so the loss is no mean over samples"
    )
    return InvalidInputError(
        f"layer {layer} {what}. Call model.eval(), or pass fixed_randomness=0 for the curvature of the training-mode "
        f"loss under one fixed mask."
    )


def wrong_likelihood(name: str | None, shape: Sequence[int]) -> InvalidInputError:
    """Error for a criterion whose second derivative is not that of the likelihood, or of any if none is named."""
    if name is None:
        return InvalidInputError(
            f"the criterion's second derivative in outputs of shape {tuple(shape)} is that of no likelihood which "
            f"specop knows: {', '.join(_PARAMETERS)}."
        )
    return InvalidInputError(
        f"the criterion is not the negative log-likelihood of a {name} variable with these outputs, of shape "
        f"{tuple(shape)}: its second derivative is another. It must be a sum over independent terms with "
        f"{_PARAMETERS[name]}. Pass another likelihood=, or take ggn(), which needs none."
    )
