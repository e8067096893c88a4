"""flax.linen modules and their TrainStates: functions of variables, of which ``params`` are the parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flax.errors import FlaxError

from specop.errors import InvalidInputError
from specop.objectives.calling import Criterion, Forward, calling_module
from specop.objectives.trees import Constant
from specop_jax.models import CRITERION, TreeModel

__all__ = ["is_linen", "linen_model"]


def is_linen(model: Any) -> bool:
    """Whether a model is a flax.linen module, or a TrainState, which holds the function of one and its parameters."""
    names = {f"{base.__module__}.{base.__name__}" for base in type(model).__mro__}
    return bool(names & {"flax.linen.module.Module", "flax.training.train_state.TrainState"})


def linen_model(model: Any, criterion: Criterion | None, params: Any, forward: Forward | None) -> TreeModel:
    """Return a flax.linen module with its variables, or its parameters alone, or a TrainState, as a model.

    ``apply(variables, x)`` is called; `forward` is given ``apply`` with the variables filled in, and the batch. Other
    variables, such as statistics, are constants.
    """
    if hasattr(model, "apply_fn"):
        if params is not None:
            raise InvalidInputError("params= is for functions and modules; a TrainState brings its own params.")
        apply, variables = model.apply_fn, model.params
        statistics = getattr(model, "batch_stats", None)
        others = {} if statistics is None else {"batch_stats": statistics}
    else:
        others = {}
        if params is None and model.scope is not None:
            # A bound module holds its variables.
            model, params = model.unbind()
        if params is None:
            raise InvalidInputError(
                f"{type(model).__name__} does not hold its parameters: pass the variables that its init returned, "
                f"objective(model, criterion, data, params=variables), or a TrainState."
            )
        if hasattr(params, "apply_fn"):
            raise InvalidInputError(
                f"params= is a {type(params).__name__}, which knows its module: pass it as the model, "
                f"objective(state, criterion, data), or its variables alone, params=state.params."
            )
        apply, variables = model.apply, params
    if isinstance(variables, Mapping) and "params" in variables:
        others |= {name: value for name, value in variables.items() if name != "params"}
        variables = variables["params"]
    calling = calling_module(criterion, forward, CRITERION)
    applied = _Applied(apply, others, calling.function.value)
    return TreeModel(replace(calling, function=Constant(applied)), variables)


@dataclass(frozen=True, eq=False)
class _Applied:
    """A function of parameters and a batch: what is called with the rest of the variables filled in."""

    apply: Callable[..., Any]
    others: dict[str, Any]
    call: Forward

    def __call__(self, params: Any, batch: Any) -> Any:
        try:
            return self.call(functools.partial(self.apply, {"params": params, **self.others}), batch)
        except FlaxError as error:
            text = str(error).partition(" (https://")[0].strip().partition("\n")[0].rstrip(".")
            raise InvalidInputError(
                f"the module cannot be applied as it is: {text}. It is called as apply(variables, x): if it has a mode "
                f"for training, as with dropout and batch normalization, pass the other one, forward=lambda apply, "
                f"batch: apply(batch[0], train=False) or what its own argument is called; if variables are missing, "
                f"pass all that init returned as params=."
            ) from error
