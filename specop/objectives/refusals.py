"""What every framework's adapter refuses, in the same words."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from specop.errors import InvalidInputError, NondeterministicError

__all__ = [
    "check_samples_first",
    "criterion_of_parameters",
    "no_outputs",
    "refusing_global_draws",
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
    moved += ["numpy.random"] * (not _equal(np.random.get_state(legacy=False), numpy))
    if moved:
        raise NondeterministicError(
            f"the forward pass draws from the global generator of Python's module {moved[0]}, so every product would "
            f"be of another matrix. Switch the sampling off, or draw with the framework's own generator."
        )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_equal(value, other.get(key)) for key, value in one.items())
    return np.array_equal(one, other)


def no_outputs() -> InvalidInputError:
    """Error for a function that returns the loss where outputs are needed."""
    return InvalidInputError(
        "without a criterion the function returns the loss, and nothing is known of its outputs: only loss, "
        "gradient and Hessian exist. Let the function return outputs, and pass objective(fun, criterion, "
        "data, params=params)."
    )


def wrong_likelihood(name: str, shape: Sequence[int]) -> InvalidInputError:
    """Error for a criterion whose second derivative is not that of the likelihood."""
    return InvalidInputError(
        f"the criterion is not the negative log-likelihood of a {name} variable with these outputs, of shape "
        f"{tuple(shape)}: its second derivative is another. It must be a sum over independent terms with "
        f"{_PARAMETERS[name]}. Pass another likelihood=, or take ggn(), which needs none."
    )
