"""What is differentiated: a module with a criterion, or a function of a parameter structure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import optree
from torch import Tensor, nn
from torch.func import functional_call

from specop.errors import InvalidInputError
from specop.objectives.refusals import no_outputs
from specop.objectives.select import choose

__all__ = ["FunctionModel", "Model", "ModuleModel"]

Forward = Callable[[Any, Any], Any]
Criterion = Callable[..., Tensor]


class Model(Protocol):
    """A loss as a function of named tensors and a batch."""

    constants: frozenset[str]
    criterion: Criterion | None

    def loss(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the mean loss over the batch with the named parameters replaced by these values."""

    def outputs(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return what the criterion is given, or raise where there is none."""

    def holding(self, values: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
        """Return what a call returns while the named parameters are replaced by these values."""

    def compare(self, values: Mapping[str, Tensor], outputs: Any, batch: Any) -> Any:
        """Return the criterion's value at these outputs; `values` are for a criterion that reads the parameters."""

    def refuse_coupled_samples(self) -> None:
        """Raise if a sample's outputs depend on the other samples of its batch."""

    def select(self, select: Any, among: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the chosen parameters by name."""

    def named_state(self) -> Iterable[tuple[str, Tensor]]:
        """Yield everything that the loss depends on besides the data."""

    def state(self) -> list[Tensor]:
        """Return the tensors of `named_state`."""

    def modes(self) -> tuple[int, ...]:
        """Return the switches that the loss depends on."""

    def tensors_of(self, tree: Any, like: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the tensors of a parameter structure in the order of `like`."""

    def structure_of(self, values: dict[str, Tensor]) -> Any:
        """Return named tensors as the user's structure."""


class ModuleModel:
    """A `torch.nn.Module`; ``criterion(outputs, y)`` or, with `forward`, ``criterion(outputs, batch)``."""

    def __init__(
        self, module: nn.Module, criterion: Criterion | None, forward: Forward | None, *, check_modes: bool
    ) -> None:
        if criterion is None:
            raise InvalidInputError(
                "a module needs a criterion: objective(model, criterion, data), for example torch.nn.functional."
                "cross_entropy. For a loss computed by hand pass a function of the parameters instead of a module."
            )
        if getattr(criterion, "reduction", "mean") != "mean":
            raise InvalidInputError(
                f"the criterion has reduction={criterion.reduction!r}; curvature is defined here for the mean loss. "  # type: ignore[attr-defined]
                f"Use reduction='mean'; multiply the operator by the number of samples for the sum."
            )
        # torch.compile has returned silently wrong second derivatives; the module below it is the same function.
        self.module = getattr(module, "_orig_mod", module)
        self.criterion: Criterion | None = criterion
        self.forward = forward
        self.check_modes = check_modes
        self.constants = frozenset(name for name, tensor in self.module.named_parameters() if not tensor.requires_grad)
        self._replaced = _Replaced(self.module)
        self._check_layers()

    def loss(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the mean loss."""
        # One call for both: a criterion may read the module's parameters, as a penalty does.
        return self.holding(values, lambda: self._compare(self._run(batch), batch))

    def outputs(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the outputs."""
        return self.holding(values, lambda: self._run(batch))

    def holding(self, values: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
        """Return what a call returns while the module holds these values, and copies of its buffers.

        Layers may update buffers. Backward passes need this too: activation checkpointing runs layers again in them.
        """
        if self.check_modes:
            self._check_modes()
        held = {f"module.{name}": value for name, value in values.items()}
        held |= {f"module.{name}": buffer.clone() for name, buffer in self.module.named_buffers()}
        return functional_call(self._replaced, held, (call,))

    def compare(self, values: Mapping[str, Tensor], outputs: Any, batch: Any) -> Any:
        """Return the criterion's value."""
        return self.holding(values, lambda: self._compare(outputs, batch))

    def refuse_coupled_samples(self) -> None:
        """Raise if batch normalization uses the batch's own statistics."""
        for name, layer in self.module.named_modules():
            if layer.training and isinstance(layer, nn.modules.batchnorm._BatchNorm):
                raise InvalidInputError(
                    f"layer {name!r} ({type(layer).__name__}) is batch normalization in training mode: a sample's "
                    f"outputs depend on the whole batch, so that gradients of single samples do not exist. Call "
                    f"model.eval()."
                )

    def select(self, select: Any, among: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the parameters that require grad, or those that `select` names."""
        named = dict(self.module.named_parameters()) if among is None else dict(among)
        real = {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
        if select is None:
            trainable = {name: tensor for name, tensor in real.items() if tensor.requires_grad}
            if not trainable:
                raise InvalidInputError(
                    f"none of the model's {len(named)} parameters requires grad. Call requires_grad_() on those whose "
                    f"curvature you want."
                )
            return trainable
        if isinstance(select, nn.Module):
            select = list(select.parameters())
        chosen = {name: real[name] for name in choose(real, select)}
        frozen = [name for name in chosen if name in self.constants]
        if frozen:
            warnings.warn(
                f"{len(frozen)} selected parameters are frozen, such as {frozen[0]!r}: they count as constants, and "
                f"their rows are zero. Call requires_grad_() on them to include them.",
                stacklevel=5,
            )
        return chosen

    def named_state(self) -> Iterable[tuple[str, Tensor]]:
        """Yield parameters and buffers."""
        yield from self.module.named_parameters()
        yield from self.module.named_buffers()

    def state(self) -> list[Tensor]:
        """Return parameters and buffers."""
        return [tensor for _, tensor in self.named_state()]

    def modes(self) -> tuple[int, ...]:
        """Return which layers are in training mode."""
        return tuple(int(layer.training) for layer in self.module.modules())

    def tensors_of(self, tree: Any, like: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the tensors of a mapping by parameter name."""
        if not isinstance(tree, Mapping) or set(tree) != set(like):
            raise InvalidInputError(
                f"a parameter structure of a module is a mapping with exactly its {len(like)} selected names, such as "
                f"{next(iter(like))!r}; got {type(tree).__name__}."
            )
        return _checked_shapes({name: tree[name] for name in like}, like)

    def structure_of(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a mapping by parameter name."""
        return values

    def _compare(self, outputs: Any, batch: Any) -> Any:
        assert self.criterion is not None
        return self.criterion(outputs, batch if self.forward is not None else batch[1])

    def _run(self, batch: Any) -> Any:
        if self.forward is not None:
            return self.forward(self.module, batch)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            kind = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
            raise InvalidInputError(
                f"a batch must be a pair (x, y), for model(x) and criterion(outputs, y); got {kind}. For other batches "
                f"pass forward=lambda model, batch: ..., and a criterion of (outputs, batch). If the data is one batch "
                f"[x, y], pass it as a tuple."
            )
        return self.module(batch[0])

    def _check_layers(self) -> None:
        for name, layer in self.module.named_modules():
            if not isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
                continue
            if layer.sparse:
                raise InvalidInputError(
                    f"layer {name!r} has sparse=True: torch has no second derivative of sparse gradients. Set "
                    f"{name}.sparse = False; values do not change."
                )
            if layer.max_norm is not None:
                raise InvalidInputError(
                    f"layer {name!r} has max_norm={layer.max_norm}: its forward pass writes to its weight. Call the "
                    f"model on the data once, which scales the rows down, and set {name}.max_norm = None."
                )
            if layer.scale_grad_by_freq:
                raise InvalidInputError(
                    f"layer {name!r} has scale_grad_by_freq=True: its gradient is that of no loss, and has no "
                    f"Hessian. Set {name}.scale_grad_by_freq = False; values do not change."
                )

    def _check_modes(self) -> None:
        for name, layer in self.module.named_modules():
            if not layer.training:
                continue
            if _drops_out(layer):
                what = "has active dropout"
            elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
                what = "is batch normalization in training mode, so the loss is no mean over samples"
            else:
                continue
            raise InvalidInputError(
                f"layer {name!r} ({type(layer).__name__}) {what}. Call model.eval(), or pass fixed_randomness=0 for "
                f"the curvature of the training-mode loss under one fixed mask."
            )


class FunctionModel:
    """``fun(params, batch) -> loss``, or with a criterion ``-> outputs``; params is any structure of tensors."""

    constants: frozenset[str] = frozenset()

    def __init__(self, function: Any, criterion: Criterion | None, params: Any, forward: Forward | None) -> None:
        if not callable(function):
            raise InvalidInputError(
                f"expected a module or a function of (params, batch), got {type(function).__name__}."
            )
        if forward is not None:
            raise InvalidInputError("forward= is for modules; a function computes its outputs itself.")
        self.function = function
        self.criterion = criterion
        self.treedef: Any
        paths, tensors, self.treedef = optree.tree_flatten_with_path(params)
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise InvalidInputError("params must be a structure (dict, list, tuple, ...) of tensors with at least one.")
        self.tensors = {
            ".".join(map(str, path)) or "params": tensor for path, tensor in zip(paths, tensors, strict=True)
        }

    def loss(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the mean loss."""
        found = self.function(self.structure_of(dict(values)), batch)
        return found if self.criterion is None else self.compare(values, found, batch)

    def outputs(self, values: Mapping[str, Tensor], batch: Any) -> Any:
        """Return the function's value at a structure with the named leaves replaced."""
        if self.criterion is None:
            raise no_outputs()
        return self.function(self.structure_of(dict(values)), batch)

    def holding(self, values: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
        """Return what a call returns: a function takes its parameters as arguments."""
        return call()

    def compare(self, values: Mapping[str, Tensor], outputs: Any, batch: Any) -> Any:
        """Return the criterion's value."""
        assert self.criterion is not None
        return self.criterion(outputs, batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else batch)

    def refuse_coupled_samples(self) -> None:
        """Of a function nothing is known."""

    def select(self, select: Any, among: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return all real leaves, or those that `select` names."""
        named = self.tensors if among is None else dict(among)
        real = {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
        if not real:
            raise InvalidInputError("params holds no floating-point tensor.")
        return real if select is None else {name: real[name] for name in choose(real, select)}

    def named_state(self) -> Iterable[tuple[str, Tensor]]:
        """Yield the leaves."""
        return self.tensors.items()

    def state(self) -> list[Tensor]:
        """Return the leaves."""
        return list(self.tensors.values())

    def modes(self) -> tuple[int, ...]:
        """A function has no switches."""
        return ()

    def tensors_of(self, tree: Any, like: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the selected leaves of a structure like params."""
        found, treedef = optree.tree_flatten(tree)
        if treedef != self.treedef:
            raise InvalidInputError(f"expected a structure like params, {self.treedef}; got {treedef}.")
        named = dict(zip(self.tensors, found, strict=True))
        return _checked_shapes({name: named[name] for name in like}, like)

    def structure_of(self, values: dict[str, Tensor]) -> Any:
        """Return params with the named leaves replaced."""
        return optree.tree_unflatten(
            self.treedef, [values.get(name, tensor.detach()) for name, tensor in self.tensors.items()]
        )


def _checked_shapes(found: Mapping[str, Any], like: Mapping[str, Tensor]) -> list[Tensor]:
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor) or tensor.shape != like[name].shape:
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InvalidInputError(f"{name!r} must be a tensor of shape {tuple(like[name].shape)}, got {shape}.")
    return list(found.values())


def _drops_out(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    if isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)):
        return layer.dropout > 0
    return False


class _Replaced(nn.Module):
    """Puts any call under `functional_call`, which replaces tensors inside modules only."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, call: Callable[[], Any]) -> Any:
        return call()
