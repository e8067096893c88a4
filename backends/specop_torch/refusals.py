"""Modules that are refused by name: sharded ones, and layers or modes that have no right second derivative."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from specop.errors import InvalidInputError
from specop.objectives.refusals import layer_in_training_mode, layer_mixes_samples
from specop_torch.structures import checked

__all__ = ["refuse_coupled_samples", "refuse_hooks", "refuse_layers", "refuse_modes", "refuse_sharded"]


def refuse_sharded(module: nn.Module) -> None:
    """Raise InvalidInputError if this process holds a part of the parameters only, or hooks gather them.

    Classes are told by their names, because importing them takes long.
    """
    refuse_hooks(module)
    sharded = [name for name, one in module.named_parameters() if type(one).__name__ == "DTensor"]
    if sharded:
        raise InvalidInputError(
            f"{len(sharded)} parameters are DTensors, such as {sharded[0]!r}: this process holds a part of each. Pass "
            f"parallel=mesh, the mesh that they lie on, in all processes at the same time."
        )


def refuse_hooks(module: nn.Module, *, may_be_second: bool = False) -> None:
    """Raise InvalidInputError if hooks gather the module's parameters: nothing can be differentiated twice there.

    Parameters
    ----------
    module : nn.Module
    may_be_second : bool
        Whether the hooks may be those of FSDP2.
    """
    for name, layer in module.named_modules():
        kinds = {kind.__name__ for kind in type(layer).__mro__}
        where = f"layer {name!r}" if name else "the model"
        if "FullyShardedDataParallel" in kinds or any(
            type(one).__name__ == "FlatParameter" for one in layer._parameters.values()
        ):
            raise InvalidInputError(
                f"{where} is in FSDP1 (FullyShardedDataParallel), whose flat parameters have no second derivatives. "
                f"Shard the model by FSDP2, torch.distributed.fsdp.fully_shard, and pass the same model without hooks "
                f"with params=dict(sharded.named_parameters()) and parallel=mesh; or gather the parameters into a "
                f"plain module by FullyShardedDataParallel.summon_full_params."
            )
        if "FSDPModule" in kinds and not may_be_second:
            raise InvalidInputError(
                f"{where} is in FSDP2 (fully_shard), whose hooks hide the parameters from second derivatives. Pass the "
                f"same model without hooks, such as one built anew, with the sharded parameters: objective(model, "
                f"criterion, data, params=dict(sharded.named_parameters()), parallel=mesh). With parallel=mesh alone "
                f"there are loss, gradient and objective.finite_difference_hessian()."
            )


def refuse_layers(module: nn.Module, state: Iterable[tuple[str, Tensor]]) -> None:
    """Raise InvalidInputError if a layer holds what has no derivative, or its gradient is that of no loss."""
    for name, tensor in state:
        checked(tensor, f"{name!r} of the model")
    for name, layer in module.named_modules():
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


def refuse_modes(module: nn.Module) -> None:
    """Raise InvalidInputError if a layer draws random numbers or mixes samples because it is in training mode."""
    for name, layer in module.named_modules():
        if not layer.training:
            continue
        drops_out = _drops_out(layer)
        if drops_out or isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise layer_in_training_mode(f"{name!r} ({type(layer).__name__})", drops_out=drops_out)


def refuse_coupled_samples(module: nn.Module) -> None:
    """Raise InvalidInputError if batch normalization uses the batch's own statistics."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
            raise layer_mixes_samples(
                f"{name!r} ({type(layer).__name__})", "Call model.eval(), and let it track_running_stats"
            )


def _drops_out(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    if isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)):
        return layer.dropout > 0
    return False
