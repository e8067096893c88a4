"""compiled, settled: functions that run on the devices of a mesh, one program after the other, and in all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from specop_jax.groups import keeping_others, processes_on, waiting_on

__all__ = ["compiled", "settled"]


def compiled(function: Callable[..., Any], mesh: Mesh | None, **options: Any) -> Any:
    """Return a compiled function of arrays on a mesh, or on one device, that calls code of the user's.

    Parameters
    ----------
    function : callable
        Function of arrays, and of static arguments that are equal only where they mean the same.
    mesh : Mesh or None
    **options
        Options of `jax.jit`.
    """
    found = jax.jit(function, **options)
    return found if mesh is None else _Traced(found, mesh)


def settled(function: Any, mesh: Mesh) -> Any:
    """Return a compiled function whose results are there when it returns, on devices that share a processor's threads.

    A sum over such devices waits for all of them, and one that waits keeps its thread: two programs at a time wait for
    each other for ever.
    """
    return _Settled(function, mesh) if mesh.devices.flat[0].platform == "cpu" else function


class _Settled:
    """A compiled function, each call of which ends before the next program begins."""

    def __init__(self, function: Any, mesh: Mesh) -> None:
        self._function = function
        self._mesh = mesh

    def __call__(self, *arguments: Any) -> Any:
        with waiting_on(self._mesh), keeping_others(self._mesh):
            return jax.block_until_ready(self._function(*arguments))

    def lower(self, *arguments: Any) -> Any:
        """Return what is compiled for these arguments."""
        return self._function.lower(*arguments)


class _Traced(_Settled):
    """A compiled function that several processes trace together: an error of one, in code of the user's, is one of all.

    Otherwise those in which it is not raised would wait in the program for the one that never gets there.
    """

    def __init__(self, function: Any, mesh: Mesh) -> None:
        super().__init__(settled(function, mesh), mesh)
        self._jitted = function
        self._traced: set[Any] = set()

    def __call__(self, *arguments: Any) -> Any:
        processes = processes_on(self._mesh)
        if processes.count > 1:
            key = _form(arguments)
            if key not in self._traced:
                with processes.together():
                    self._jitted.trace(*arguments)
                self._traced.add(key)
        return self._function(*arguments)


def _form(arguments: Any) -> Any:
    """Return what tells calls apart that are traced anew."""
    leaves, structure = jax.tree_util.tree_flatten(arguments)
    return structure, tuple(map(_kind, leaves)), jax.config.jax_enable_x64  # type: ignore[attr-defined]


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Array):
        return leaf.shape, leaf.dtype, leaf.weak_type, leaf.sharding
    return (leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf
