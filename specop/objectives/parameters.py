"""Parameters by name: ParameterTree of those that a function is given, and what is chosen of a module's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, ParametersChangedError
from specop.objectives.refusals import complex_parameters
from specop.objectives.select import choose
from specop.objectives.trees import Trees

__all__ = [
    "ParameterTree",
    "by_name",
    "check_trained",
    "checked_shapes",
    "chosen_of",
    "one_device",
    "trained",
    "unchanged",
]


class ParameterTree:
    """A structure of named arrays; everything else belongs to the structure.

    Parameters
    ----------
    trees : Trees
    structure : structure of arrays
    is_real, is_complex : callable
        Whether an array holds floating-point or complex numbers.

    Attributes
    ----------
    arrays : dict from names to arrays
    frame : Frame
        What puts the structure together again from its arrays.
    """

    def __init__(
        self,
        trees: Trees,
        structure: Any,
        is_real: Callable[[Array], bool],
        is_complex: Callable[[Array], bool],
    ) -> None:
        arrays, self.frame = trees.take_apart(structure)
        self.arrays: dict[str, Array] = dict(zip(trees.named(structure), arrays, strict=True))
        self._trees = trees
        self._is_real = is_real
        self._complex = [name for name, array in self.arrays.items() if is_complex(array)]
        if not self._complex and not any(map(is_real, arrays)):
            raise InvalidInputError(
                f"there is no floating-point array among the {len(trees.flatten(structure)[0])} leaves of the "
                f"parameters. Pass a structure (dict, list, tuple, ...) of the framework's arrays, and numbers as such."
            )

    def select(self, select: Any, among: Collection[str] | None = None) -> dict[str, Array]:
        """Return the floating-point arrays, or those of them that `select` names."""
        if among is None and select is None and self._complex:
            raise complex_parameters(self._complex)
        real = {name: self.arrays[name] for name in among or self.arrays if self._is_real(self.arrays[name])}
        if select is None:
            return real
        complex_ones = {name: self.arrays[name] for name in self._complex}
        return {name: real[name] for name in chosen_of(real, complex_ones, select)}

    def arrays_of(self, structure: Any, names: Collection[str]) -> dict[str, Any]:
        """Return named leaves of a structure like the parameters."""
        named = self._trees.named(structure)
        if named.keys() != self.arrays.keys():
            raise InvalidInputError(
                f"expected a structure like params, with the arrays {', '.join(self.arrays)}; got one with "
                f"{', '.join(named) or 'no array'}."
            )
        return {name: named[name] for name in names}

    def structure(self, values: Mapping[str, Array]) -> Any:
        """Return the structure with named arrays replaced."""
        return self.frame.fill(values.get(name, array) for name, array in self.arrays.items())


def trained(
    named: Mapping[str, Array],
    select: Any,
    constants: Collection[str],
    *,
    complex_ones: Mapping[str, Array],
    unfreeze: str,
    tied: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Array]:
    """Return the parameters of a module that are trained, or those that `select` names; frozen ones with a warning.

    Parameters
    ----------
    named : mapping from names to arrays
        Real parameters.
    select : str, array, callable, list or None
        Which parameters, as `choose` takes them; None for all that are trained.
    constants : collection of str
        Names of frozen parameters.
    complex_ones : mapping from names to arrays
        Complex parameters, which are refused where they are trained or named.
    unfreeze : str
        What to do so that frozen parameters count; a sentence for errors.
    tied : mapping from names to collections of str, optional
        Further names of parameters that several modules hold.
    """
    if select is None:
        moving_complex = [name for name in complex_ones if name not in constants]
        if moving_complex:
            raise complex_parameters(moving_complex)
        moving = {name: array for name, array in named.items() if name not in constants}
        if not named:
            raise InvalidInputError(
                "the model has no floating-point parameters: freezing (torch.jit.freeze), quantization and export make "
                "constants of them. Pass the model as it was trained."
            )
        if not moving:
            raise InvalidInputError(
                f"none of the model's {len(named)} parameters is trainable. {unfreeze}, for those whose curvature "
                f"you want."
            )
        return moving
    chosen = {name: named[name] for name in chosen_of(named, complex_ones, select, tied)}
    frozen = [name for name in chosen if name in constants]
    if len(frozen) == len(chosen):
        raise InvalidInputError(
            f"all {len(frozen)} selected parameters are frozen, such as {frozen[0]!r}: the loss has no derivatives in "
            f"them. {unfreeze}, or select others."
        )
    if frozen:
        warnings.warn(
            f"{len(frozen)} selected parameters are frozen, such as {frozen[0]!r}: they count as constants, and their "
            f"rows are zero. {unfreeze}, to include them.",
            stacklevel=6,
        )
    return chosen


def unchanged(
    known: Mapping[str, Array], held: Mapping[str, Array], kind_of: Callable[[Array], tuple[Any, ...]]
) -> list[Array]:
    """Return the arrays that a model holds now, or raise ParametersChangedError unless they are of the kinds known.

    Parameters
    ----------
    known, held : mapping from names to arrays
        The selected parameters at first; all parameters now.
    kind_of : callable
        Returns what an array must keep, such as shape, dtype and device.
    """
    for name, array in known.items():
        now = held.get(name)
        if now is None or kind_of(now) != kind_of(array):
            what = "is gone" if now is None else f"is now of {', '.join(map(str, kind_of(now)))}"
            raise ParametersChangedError(f"parameter {name!r} {what}. Make a new objective for the changed model.")
    return [held[name] for name in known]


def check_trained(names: Collection[str], first: Collection[str], now: Collection[str]) -> None:
    """Raise ParametersChangedError if parameters are trained now that were frozen when the objective was made.

    Parameters
    ----------
    names : collection of str
        The selected parameters. Those that were chosen from what is trained stay as they were chosen.
    first, now : collection of str
        All parameters that were trained then, and those that are now.
    """
    added = [name for name in now if name not in first and (name in names or set(first) <= set(names))]
    if added:
        raise ParametersChangedError(
            f"{len(added)} parameters that were frozen when the objective was made are trained now, such as "
            f"{added[0]!r}: its derivatives lack them. Make a new objective; a Monitor takes a function that returns "
            f"one, or pass select= for the parameters that it is to follow."
        )


def one_device(devices: Collection[Any], remedy: str) -> Any:
    """Return the device of a model's arrays, or raise InvalidInputError if there are several."""
    if len(set(devices)) > 1:
        raise InvalidInputError(
            f"the selected parameters lie on several devices, {sorted(set(map(str, devices)))}. Select a part of the "
            f"model that lies on one, or {remedy}."
        )
    return next(iter(devices))


def chosen_of(
    named: Mapping[str, Array],
    complex_ones: Mapping[str, Array],
    select: Any,
    tied: Mapping[str, Collection[str]] | None = None,
) -> tuple[str, ...]:
    """Return the names that `select` picks, or raise InvalidInputError if complex parameters are among them."""
    chosen = choose({**named, **complex_ones}, select, tied=tied or {})
    refused = [name for name in chosen if name in complex_ones]
    if refused:
        raise complex_parameters(refused)
    return chosen


def by_name(structure: Any, names: Collection[str]) -> dict[str, Any]:
    """Return what a mapping holds for the selected names of a module's parameters."""
    if not isinstance(structure, Mapping) or set(structure) != set(names):
        raise InvalidInputError(
            f"a parameter structure of a module is a mapping with exactly its {len(names)} selected names, such as "
            f"{next(iter(names))!r}; got {type(structure).__name__}."
        )
    return {name: structure[name] for name in names}


def checked_shapes(
    found: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], shape_of: Callable[[Any], tuple[int, ...] | None]
) -> list[Array]:
    """Return the arrays if they have these shapes, or raise InvalidInputError.

    Parameters
    ----------
    found : mapping from names to arrays
    shapes : mapping from names to tuples of int
    shape_of : callable
        Returns the shape of one of the framework's arrays, and None for everything else.
    """
    for name, array in found.items():
        shape = shape_of(array)
        if shape != shapes[name]:
            got = type(array).__name__ if shape is None else shape
            raise InvalidInputError(f"{name!r} must be an array of shape {shapes[name]}, got {got}.")
    return list(found.values())
