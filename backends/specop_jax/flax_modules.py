"""Flax NNX modules: parameters are `nnx.Param`, every other variable is a constant."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from specop.errors import InvalidInputError, NondeterministicError
from specop.objectives.calling import Calling, Criterion, Forward, calling_module
from specop.objectives.hidden import HiddenState, attributes_set, hidden_state
from specop.objectives.parameters import by_name, chosen_of
from specop.objectives.refusals import complex_parameters, layer_in_training_mode, layer_mixes_samples
from specop_jax.models import CRITERION, Loss, is_complex, real
from specop_jax.structures import names_of

__all__ = ["NnxModel"]


class NnxModel:
    """An NNX module; ``criterion(outputs, y)`` or, with `forward`, ``criterion(outputs, batch)``.

    The loss runs on a copy that is made inside the compiled function, so that statistics and random counts that a
    layer updates are the copy's. The module's own arrays are read anew for each call: it may be trained in between.
    """

    is_module = True
    widens = True

    def __init__(
        self, module: nnx.Module, criterion: Criterion | None, forward: Forward | None, seed: int | None
    ) -> None:
        self.module = module
        self.seed = seed
        self.calling = calling_module(criterion, forward, CRITERION)

    def read(self) -> tuple[Loss, dict[str, Array | np.ndarray]]:
        """Return the loss and the arrays of all variables."""
        if self.seed is None:
            self._check_modes()
        graphdef, state = nnx.split(self.module)
        paths, treedef = jax.tree_util.tree_flatten_with_path(state)
        loss = _NnxLoss(self.calling, graphdef, treedef, self.seed)
        return loss, dict(zip(_names(paths), (leaf for _, leaf in paths), strict=True))

    def hidden_state(self) -> HiddenState:
        """Put back what a trace changes in the modules' plain attributes, and give what names it."""
        return hidden_state({".".join(map(str, path)): layer for path, layer in nnx.iter_modules(self.module)})

    def evaluating(self) -> AbstractContextManager[None]:
        """Hold every layer in evaluation mode, as ``eval()`` does."""
        layers = [layer for _, layer in nnx.iter_modules(self.module)]
        return attributes_set(layers, deterministic=True, use_running_average=True)

    def refuse_coupled_samples(self) -> None:
        """Raise if batch normalization uses the batch's own statistics."""
        for path, layer in nnx.iter_modules(self.module):
            if isinstance(layer, nnx.BatchNorm) and not layer.use_running_average:
                raise layer_mixes_samples(f"{'.'.join(map(str, path))!r} (BatchNorm)", "Call model.eval()")

    def trained(self) -> list[str]:
        """Modules of flax freeze nothing."""
        return []

    def select(self, select: Any, among: Collection[str] | None = None) -> dict[str, Any]:
        """Return all floating-point parameters, or those that `select` names."""
        paths = jax.tree_util.tree_leaves_with_path(nnx.state(self.module, nnx.Param))
        held = {name: leaf for name, (_, leaf) in zip(_names(paths), paths, strict=True)}
        named = {name: leaf for name, leaf in held.items() if real(leaf)}
        complex_ones = {name: leaf for name, leaf in held.items() if is_complex(leaf)}
        if among is None and select is None and complex_ones:
            raise complex_parameters([*complex_ones])
        if not named:
            raise InvalidInputError("the module holds no floating-point nnx.Param.")
        if among is not None:
            named = {name: named[name] for name in among}
        if isinstance(select, nnx.Module):
            select = self._name_of(select)
        if select is None or select == "":
            return named
        return {name: named[name] for name in chosen_of(named, complex_ones, select, self._tied_names(named))}

    def arrays_of(self, tree: Any, names: Collection[str]) -> dict[str, Any]:
        """Return the arrays of a mapping by parameter name."""
        return by_name(tree, names)

    def structure_of(self, values: dict[str, Array]) -> dict[str, Array]:
        """Return a mapping by parameter name."""
        return values

    def _name_of(self, wanted: nnx.Module) -> str:
        for path, layer in nnx.iter_modules(self.module):
            if layer is wanted:
                return ".".join(map(str, path))
        raise InvalidInputError(f"select: this {type(wanted).__name__} is no part of the model.")

    def _tied_names(self, names: Collection[str]) -> dict[str, list[str]]:
        """Return the further names of parameters in modules that several attributes hold."""
        first: dict[int, str] = {id(layer): ".".join(map(str, path)) for path, layer in nnx.iter_modules(self.module)}
        tied: dict[str, list[str]] = {}
        for layer, place in _places(self.module, (), ()):
            inside = f"{first[id(layer)]}."
            if place != inside:
                for name in names:
                    if name.startswith(inside):
                        tied.setdefault(name, []).append(place + name.removeprefix(inside))
        return tied

    def _check_modes(self) -> None:
        for path, layer in nnx.iter_modules(self.module):
            rate = getattr(layer, "rate" if isinstance(layer, nnx.Dropout) else "dropout_rate", 0)
            drops_out = (
                isinstance(layer, (nnx.Dropout, nnx.MultiHeadAttention)) and rate > 0 and not layer.deterministic
            )
            if drops_out or (isinstance(layer, nnx.BatchNorm) and not layer.use_running_average):
                name = f"{'.'.join(map(str, path))!r} ({type(layer).__name__})"
                raise layer_in_training_mode(name, drops_out=drops_out)


@dataclass(frozen=True)
class _NnxLoss:
    calling: Calling
    graphdef: Any
    treedef: Any
    seed: int | None

    def __call__(self, leaves: list[Any], batch: Any) -> Any:
        if self.calling.criterion.value is None:
            return self._called(self.calling.loss, leaves, batch)
        return self.compare(self.outputs(leaves, batch), batch)

    def again(self, leaves: list[Any], batch: Any) -> tuple[Any, list[str]]:
        if self.seed is not None:
            return self(leaves, batch), []
        model = self._merged(leaves)
        self.calling.loss(model, batch)
        after = dict(jax.tree_util.tree_leaves_with_path(nnx.state(model)))
        before = jax.tree_util.tree_unflatten(self.treedef, leaves)
        changed = [path for path, leaf in jax.tree_util.tree_leaves_with_path(before) if after.get(path) is not leaf]
        return self.calling.loss(model, batch), _names([(path, None) for path in changed])

    def outputs(self, leaves: list[Any], batch: Any) -> Any:
        return self._called(self.calling.outputs, leaves, batch)

    def _called(self, function: Any, leaves: list[Any], batch: Any) -> Any:
        model = self._merged(leaves)
        if self.seed is not None:
            streams = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.RngStream)]
            keys: dict[str, Any] = {stream.key.tag: self.seed for stream in streams}
            nnx.reseed(model, policy="match_shape", **keys)
            return function(model, batch)
        counts = _draws(model)
        found = function(model, batch)
        if any(after is not before for before, after in zip(counts, _draws(model), strict=True)):
            remedy = "Switch dropout and sampling off (model.eval()), or pass fixed_randomness=0 for one fixed mask."
            if any(isinstance(layer, nnx.RNN) for _, layer in nnx.iter_modules(model)):
                remedy = (
                    "An nnx.RNN draws a key for its first carry in each call, also in eval(): pass fixed_randomness=0, "
                    "which changes nothing where that carry is zero, as by default, and nothing else draws."
                )
            raise NondeterministicError(
                f"the forward pass draws from the module's nnx.Rngs, so that its loss is that of one mask. {remedy}"
            )
        return found

    def compare(self, outputs: Any, batch: Any) -> Any:
        return self.calling.compare(outputs, batch)

    def _merged(self, leaves: list[Any]) -> nnx.Module:
        return nnx.merge(self.graphdef, jax.tree_util.tree_unflatten(self.treedef, leaves))


def _places(node: Any, path: tuple[Any, ...], above: tuple[int, ...]) -> Iterator[tuple[nnx.Module, str]]:
    """Yield each module below a node under each of its names, with a dot behind."""
    for key, child in nnx.iter_children(node):
        if isinstance(child, nnx.Module) and id(child) not in above:
            place = (*path, key)
            yield child, "".join(f"{part}." for part in place)
            yield from _places(child, place, (*above, id(child)))


def _draws(model: nnx.Module) -> list[Any]:
    return jax.tree_util.tree_leaves(nnx.state(model, nnx.RngCount))


def _names(paths: list[tuple[Any, Any]]) -> list[str]:
    return names_of([_without_value(path) for path, _ in paths])


def _without_value(path: Any) -> list[Any]:
    """Leave out the step from a variable to its value, which arrays that are no variable's do not have."""
    step = next((number for number, key in enumerate(path) if isinstance(key, jax.tree_util.GetAttrKey)), len(path))
    return [*path[:step], *path[step + 1 :]]
