"""Transformation: an optax optimizer as a function that is called on states of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from specop.errors import InvalidInputError
from specop.objectives.update_rule import no_rule, not_held
from specop_jax.alike import alike_on
from specop_jax.autodiff import JaxAutodiff
from specop_jax.models import real
from specop_jax.places import OnMesh
from specop_jax.programs import other_program
from specop_jax.spread import is_spread
from specop_jax.structures import names_of

__all__ = ["ADAM", "DIVIDING", "KNOWN", "Answer", "Named", "Transformation"]

KNOWN = "optax.sgd, adam, adamw, amsgrad and rmsprop"
"""The optimizers whose limits are known."""

DIVIDING = {
    "ScaleByAdamState": "Adam",
    "ScaleByAmsgradState": "AMSGrad",
    "ScaleByRmsState": "RMSprop",
    "ScaleByRmsWithCountState": "RMSprop",
    "ScaleByRStdDevState": "centered RMSprop",
    "ScaleByRStdDevWithCountState": "centered RMSprop",
}
"""Names of states whose second moments divide steps, with the optimizer's."""

ADAM = ("ScaleByAdamState", "ScaleByAmsgradState")
"""Those of them that hold a mean of gradients as well."""

_SUMMING = "TraceState"
# What holds the states of others, or nothing that moves a parameter.
_AROUND = (
    "EmptyState",
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
    "MaskedState",
    "MultiTransformState",
    "PartitionState",
    "ScaleByScheduleState",
    "WrappedScheduleState",
)

Named = dict[str, Array]


class Answer(NamedTuple):
    """What a call of the transformation gives for the selected parameters, by name."""

    updates: Named
    first: Named
    second: Named


class Transformation:
    """Calls a transformation on states of our own.

    Parameters
    ----------
    autodiff : JaxAutodiff
        Derivatives of the parameters that it moves.
    transformation : GradientTransformation
    state : structure of arrays
        State of the transformation as its last step returned it.

    Raises
    ------
    InvalidInputError
        If its state is not known or does not hold all parameters, or if processes have other states or steps.

    Attributes
    ----------
    dividing : str
        Name of the states whose second moments divide steps, "" without.
    has_first : bool
        Whether there are momenta.
    first, second : dict
        Momenta and second moments as they are.
    taken : int
        Number of steps that the state has counted; 0 where it counts none.
    """

    def __init__(self, autodiff: JaxAutodiff, transformation: Any, state: Any) -> None:
        self._autodiff = autodiff
        with autodiff.place.processes.together():
            self._read(state)
        self._state = self._agreed(transformation.update, state)
        self._update = autodiff.place.compiled(transformation.update)
        nodes = list(_nodes(self._state))
        self.first, self.second = self._moments(nodes)
        self.taken = max([int(node.count) for node in nodes if "count" in node._fields], default=0)

    def _read(self, state: Any) -> None:
        nodes = list(_nodes(state))
        found = {type(node).__name__ for node in nodes}
        dividing = [kind for kind in found if kind in DIVIDING]
        self.dividing = dividing[0] if dividing else ""
        if len(dividing) > 1 or (_SUMMING in found and self.dividing in ADAM):
            raise no_rule(f"an optimizer that holds {' and '.join(sorted(found))}", KNOWN)
        self.has_first = _SUMMING in found or self.dividing in ADAM
        self._template = self._structure(nodes)
        held = set(_named(self._template))
        self._names = {name: _matching(name, held) for name in self._autodiff.names}
        absent = [name for name, own in self._names.items() if own is None]
        if absent:
            raise not_held("the optimizer's state", absent)

    def _agreed(self, update: Callable[..., Any], state: Any) -> Any:
        """Return the state as it may meet arrays on a mesh, after a look at whether all processes have it alike."""
        place = self._autodiff.place
        if not isinstance(place, OnMesh):
            return state
        state = jax.tree_util.tree_map(_anywhere, state)
        arrays, alike, processes = _named(state), alike_on(place.mesh), place.processes
        with processes.together():
            alike.check_places(arrays, "the optimizer's state")
        if processes.count == 1:
            return state
        alike.checksums(arrays, "the optimizer's state")
        with processes.together():
            found = jax.make_jaxpr(update)(self._template, state, self._template)
        differing = other_program(str(found.jaxpr), found.consts, processes)
        if differing is not None:
            raise InvalidInputError(
                f"the optimizer takes other steps in process {differing[0]} of {processes.count} than in process 0: "
                f"its rate, its schedule or another setting is not the same. Make it of the same settings in each."
            )
        return state

    def __call__(
        self,
        *,
        gradient: float | Named = 0.0,
        params: float | Named = 0.0,
        first: float | None = 0.0,
        second: float | None = None,
        decays: dict[str, float] | None = None,
        count: int | None = None,
    ) -> Answer:
        """Return what a step does.

        Parameters
        ----------
        gradient, params : float or dict
            Entries: all the same, or by name with zeros elsewhere.
        first : float or None
            Entries of the momenta; None for those of the state.
        second : float or None
            Entries of the second moments after a step without gradient; None for those of the state.
        decays : dict, optional
            What a step leaves of second moments. Without it they are set before the step, not for after it.
        count : int, optional
            Steps that are counted after this one; default: those of the state.
        """
        before = (self.taken if count is None else count) - 1

        def changed(node: Any) -> Any:
            if type(node).__name__ not in {*DIVIDING, _SUMMING}:
                return node
            new = {"count": np.asarray(before, node.count.dtype)} if "count" in node._fields else {}
            for field in set(node._fields) - {"count"}:
                tree = getattr(node, field)
                if field == "trace" or (field == "mu" and self.dividing in ADAM):
                    new[field] = tree if first is None else _filled(tree, first)
                elif second is not None:
                    # The largest so far divides, where there is one.
                    divides = field == ("nu_max" if "nu_max" in node._fields and second >= 1 else "nu")
                    new[field] = _filled(tree, second if divides else 0.0)
                else:
                    new[field] = tree
                if decays is not None and (field == "nu" or (field == "mu" and self.dividing not in ADAM)):
                    new[field] = self._earlier(new[field], decays)
            return node._replace(**new)

        state = jax.tree_util.tree_map(changed, self._state, is_leaf=_is_node)
        updates, after = self._update(self._tree(gradient), state, self._tree(params))
        return Answer(self._own(_named(updates)), *self._moments(list(_nodes(after))))

    def _earlier(self, tree: Any, decays: dict[str, float]) -> Any:
        own = {held: decays[name] for name, held in self._names.items() if name in decays}
        return _mapped(tree, lambda name, leaf: leaf / own.get(name, 1.0))

    def _moments(self, nodes: list[Any]) -> tuple[Named, Named]:
        first: Named = {}
        second: Named = {}
        for node in nodes:
            if type(node).__name__ == _SUMMING:
                first |= _named(node.trace)
            elif type(node).__name__ in DIVIDING:
                second |= _named(node.nu)
                first |= _named(node.mu) if self.dividing in ADAM else {}
        return self._own(first), self._own(second)

    def _own(self, held: Named) -> Named:
        return {name: held[own] for name, own in self._names.items() if own in held}

    def _tree(self, values: float | Named) -> Any:
        if isinstance(values, float):
            return _filled(self._template, values)
        held = {self._names[name]: value for name, value in values.items()}
        return _mapped(self._template, lambda name, leaf: held.get(name, jnp.zeros_like(leaf)))

    def _structure(self, nodes: list[Any]) -> Any:
        """Return a structure like the one that is trained: that of moments, or else that of the objective."""
        trees = [node.trace if type(node).__name__ == _SUMMING else node.nu for node in nodes]
        whole = [tree for tree in trees if not _has_masked(tree)]
        if whole:
            return whole[0]
        structure = self._autodiff.model.structure_of(self._autodiff.current())
        return jax.tree_util.tree_map(lambda leaf: leaf if real(leaf) else None, structure)


def _anywhere(leaf: Any) -> Any:
    # A count that was made before the first step lies on one device of each process.
    return leaf if is_spread(leaf) or np.ndim(leaf) else np.asarray(leaf)


def _nodes(state: Any) -> Iterator[Any]:
    """Yield the states that hold moments, or raise InvalidInputError for one that is not known."""
    if _is_node(state):
        yield state
        return
    name = type(state).__name__
    if isinstance(state, tuple) and hasattr(state, "_fields") and name not in _AROUND:
        raise no_rule(f"an optimizer with {name}", KNOWN)
    inside = state.values() if isinstance(state, dict) else state if isinstance(state, (tuple, list)) else ()
    for part in inside:
        yield from _nodes(part)


def _is_node(state: Any) -> bool:
    return type(state).__name__ in {*DIVIDING, _SUMMING}


def _has_masked(tree: Any) -> bool:
    leaves = jax.tree_util.tree_leaves(tree, is_leaf=lambda part: type(part).__name__ == "MaskedNode")
    return any(type(leaf).__name__ == "MaskedNode" for leaf in leaves)


def _named(tree: Any) -> Named:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return dict(zip(names_of([path for path, _ in paths]), (leaf for _, leaf in paths), strict=True))


def _mapped(tree: Any, function: Callable[[str, Array], Any]) -> Any:
    leaves, treedef = jax.tree_util.tree_flatten(tree)
    names = list(_named(tree))
    return jax.tree_util.tree_unflatten(treedef, [function(*pair) for pair in zip(names, leaves, strict=True)])


def _filled(tree: Any, value: float) -> Any:
    return jax.tree_util.tree_map(lambda leaf: jnp.full_like(leaf, value), tree)


def _matching(name: str, held: set[str]) -> str | None:
    """Return the name of a parameter in the optimizer's structures; variables of flax have their value below them."""
    return next((one for one in (name, f"{name}.value") if one in held), None)
