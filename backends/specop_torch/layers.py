"""Layers: a module whose parameters lie in parts on several processes, gathered layer by layer while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from specop.objectives.refusals import criterion_of_parameters
from specop_torch.custom_functions import check_custom_functions
from specop_torch.dtensors import as_dtensors, local_parts
from specop_torch.evaluation import TwiceDifferentiable
from specop_torch.gathered import Gathered, LayerCall
from specop_torch.graph import coarsest, leaves_of, refuse_first_order
from specop_torch.structures import TREES

__all__ = ["Layers"]


class Layers:
    """What puts gathered parameters into a module while it runs.

    A layer that holds parameters itself, and has no layer below it that does, runs as a function of its inputs and
    of the parts of its parameters (`LayerCall`). All other parameters, and those that are read outside of the layer
    that holds them, are whole for as long as the graph that they are part of.

    Parameters
    ----------
    module : nn.Module
        Without hooks; its own parameters are never read.
    gathered : mapping from names to Gathered
        How processes hold its parameters.

    Attributes
    ----------
    whole : set of str
        Names of the parameters that are not gathered layer by layer.
    coarsest : float
        Largest rounding error of the dtypes inside of layers.
    curved : bool
        Whether second derivatives in the parameters are taken, or those of the outputs only.
    """

    def __init__(self, module: nn.Module, gathered: Mapping[str, Gathered]) -> None:
        self.gathered = dict(gathered)
        self.coarsest = 0.0
        self.curved = True
        names = {id(one): name for name, one in module.named_parameters()}
        own = {
            layer: {attribute: names[id(one)] for attribute, one in layer._parameters.items() if one is not None}
            for layer in module.modules()
        }
        self._layers = {
            layer: attributes
            for layer, attributes in own.items()
            if attributes and not any(own[below] for below in layer.modules() if below is not layer)
        }
        held = {name for attributes in self._layers.values() for name in attributes.values()}
        self.whole = set(self.gathered) - held
        self._parts: list[Mapping[str, Tensor]] = []
        self._known: set[nn.Module] = set()
        self._checked: set[tuple[nn.Module, bool]] = set()
        self._running: nn.Module | None = None

    def holding(self, parts: Mapping[str, Tensor], call: Callable[[dict[str, Tensor]], Any]) -> Any:
        """Return what a call returns that is given what is to stand in the module, while layers gather their own.

        Parameters
        ----------
        parts : mapping
            What this process holds of each parameter, by name.
        call : callable
        """
        while True:
            try:
                with self._installed(parts):
                    return call({name: self._standing(name, part) for name, part in parts.items()})
            except _ReadOutsideError as found:
                self._gather_whole(found.names)

    def unread(self, call: Callable[[dict[str, Tensor]], Any]) -> Any:
        """Return what a criterion returns, which is given what is to stand in the module and may not read it."""
        dtype = torch.get_default_dtype()
        standing = {
            name: _Elsewhere.of(name, one.shape, torch.empty(0, dtype=dtype)) for name, one in self.gathered.items()
        }
        try:
            return call(dict(standing))
        except _ReadOutsideError as found:
            raise criterion_of_parameters() from found

    def _standing(self, name: str, part: Tensor) -> Tensor:
        gathered = self.gathered[name]
        return gathered.kept(part) if name in self.whole else _Elsewhere.of(name, gathered.shape, part)

    def _gather_whole(self, names: Sequence[str]) -> None:
        self.whole.update(names)
        touched = [layer for layer, held in self._layers.items() if not self.whole.isdisjoint(held.values())]
        for layer in touched:
            self.whole.update(self._layers.pop(layer).values())

    @contextlib.contextmanager
    def _installed(self, parts: Mapping[str, Tensor]) -> Iterator[None]:
        self._parts.append(parts)
        replaced = [layer for layer in self._layers if not isinstance(vars(layer).get("forward"), _Forward)]
        before = {layer: vars(layer).get("forward") for layer in replaced}
        try:
            for layer in replaced:
                vars(layer)["forward"] = _Forward(self, layer, layer.forward)
            yield
        finally:
            self._parts.pop()
            for layer, own in before.items():
                if own is None:
                    del vars(layer)["forward"]
                else:
                    vars(layer)["forward"] = own

    def run(self, layer: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return what a layer returns for its arguments."""
        held = self._layers[layer]
        if self._running is not None:
            # Its parameters would be no arguments of the layer that calls it.
            raise _ReadOutsideError([*self._layers[self._running].values()])
        inputs, frame = TREES.take_apart((args, kwargs))
        inputs, specs = local_parts(inputs)
        gathered = [self.gathered[name] for name in held.values()]
        parts = [self._parts[-1][name] for name in held.values()]
        frames: list[Any] = []
        context = _autocast(parts[0].device.type)

        def compute(values: Sequence[Tensor], wholes: Sequence[Tensor]) -> list[Tensor]:
            again, named = frame.fill(as_dtensors(values, specs))
            parameters = [one.parameter(whole) for one, whole in zip(gathered, wholes, strict=True)]
            own = dict(layer._parameters)
            self._running = layer
            try:
                layer._parameters.update(zip(held, parameters, strict=True))  # type: ignore[arg-type]
                # What is switched on around a derivative is switched off inside of it, where layers run again.
                with context(), TwiceDifferentiable():
                    outputs, made = TREES.take_apart(forward(*again, **named))
                    outputs, lying = local_parts(outputs)
            finally:
                layer._parameters.update(own)
                self._running = None
            frames[:] = [(made, lying)]
            return outputs

        call = LayerCall(
            compute,
            gathered,
            len(inputs),
            lambda outputs, once_more: self._check(layer, outputs, once_more),
        )
        if layer not in self._known:
            self._look_at(layer, call, [*inputs, *parts])
        outputs = call([*inputs, *parts])
        made, lying = frames[0]
        return made.fill(as_dtensors(outputs, lying))

    def _look_at(self, layer: nn.Module, call: LayerCall, tensors: Sequence[Tensor]) -> None:
        """Raise _ReadOutsideError if a layer is more than a function of its inputs and its own parameters."""
        before = _tensors_in(layer)
        with torch.enable_grad():
            leaves, outputs = call.graph(tensors, [one.is_floating_point() for one in tensors])
        read = {id(one) for output in outputs for one in leaves_of(output)}
        if not read <= {id(leaf) for leaf in leaves} or _tensors_in(layer) != before:
            raise _ReadOutsideError([*self._layers[layer].values()])
        self.coarsest = max([self.coarsest, *(coarsest(output) for output in outputs if output.requires_grad)])
        self._known.add(layer)

    def _check(self, layer: nn.Module, outputs: Sequence[Tensor], compute: Callable[[], Any]) -> None:
        if (layer, self.curved) in self._checked:
            return
        for output in outputs:
            if output.requires_grad:
                refuse_first_order(output)
                check_custom_functions(output, compute, curved=self.curved)
        self._checked.add((layer, self.curved))


class _Forward:
    """Stands for the forward method of a layer."""

    def __init__(self, layers: Layers, layer: nn.Module, forward: Callable[..., Any]) -> None:
        self.layers, self.layer, self.forward = layers, layer, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.layer not in self.layers._layers:
            return self.forward(*args, **kwargs)
        return self.layers.run(self.layer, self.forward, args, kwargs)


class _ReadOutsideError(Exception):
    """Parameters are needed outside of the call of the layer that holds them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names


class _Elsewhere(Tensor):
    """Stands for a parameter that is gathered when its layer runs, and knows when it is read at any other place."""

    stands_for: str

    @classmethod
    def of(cls, name: str, shape: Sequence[int], part: Tensor) -> _Elsewhere:
        """Return what stands for a parameter of this name, shape and dtype."""
        found: _Elsewhere = torch.empty(tuple(shape), dtype=part.dtype, device="meta").as_subclass(cls)
        found.stands_for = name
        return found

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _DESCRIBING:
            return super().__torch_function__(function, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        found = [one.stands_for for one in _flat((args, kwargs or {})) if isinstance(one, cls)]
        raise _ReadOutsideError(found)


_DESCRIBING = {
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.dtype.__get__,  # type: ignore[attr-defined]
    Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.is_floating_point,
    Tensor.is_complex,
    Tensor.__len__,
}


def _flat(values: Any) -> Iterator[Any]:
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from _flat(value)
    elif isinstance(values, dict):
        yield from _flat(list(values.values()))
    else:
        yield values


def _tensors_in(layer: nn.Module) -> dict[tuple[int, str], int]:
    """Return the tensors that a layer and those below it keep in plain attributes."""
    return {
        (id(one), name): id(value)
        for one in layer.modules()
        for name, value in vars(one).items()
        if isinstance(value, Tensor)
    }


def _autocast(kind: str) -> Callable[[], Any]:
    """Return what brings the autocast of now back in a derivative."""
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=enabled)
