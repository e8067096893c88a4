"""The forward pass: under a fixed seed or without randomness, and with results that can be differentiated."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from specop.errors import NondeterministicError, NonFiniteError
from specop.objectives.refusals import (
    criterion_of_parameters,
    no_scalar,
    not_finite,
    not_real_outputs,
    refusing_global_draws,
)
from specop_torch.cross_entropy import cross_entropy
from specop_torch.graph import depends_on, naming_missing_derivatives, naming_reentrant_checkpoints
from specop_torch.linear import MATRIX_PRODUCTS, linear, matrix_product
from specop_torch.models import Model
from specop_torch.recomputation import recomputing_under
from specop_torch.structures import parts

__all__ = ["Evaluation", "TwiceDifferentiable"]


class Evaluation:
    """Runs a model and checks what it returns.

    Parameters
    ----------
    model : Model
    devices : sequence of torch.device
        Devices whose random states are put back.
    fixed_randomness : int or None
        Seed of every forward pass; without it the model must not draw.
    """

    def __init__(self, model: Model, devices: Sequence[torch.device], fixed_randomness: int | None) -> None:
        self.model = model
        self.drawing = [device for device in devices if device.type == "cuda"]
        self.fixed_randomness = fixed_randomness

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Put torch's random state back on leaving."""
        with torch.random.fork_rng(devices=self.drawing):
            yield

    @contextlib.contextmanager
    def running(self, *, twice_differentiable: bool = True) -> Iterator[None]:
        """Run the model under the fixed seed, and by operations that have the derivatives needed."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(naming_reentrant_checkpoints())
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
                # Compiled code has no second derivative, or a wrong one; what was compiled is the same function.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if twice_differentiable:
                stack.enter_context(naming_missing_derivatives())
                # Fused attention has no second derivative. Where one is enough, it takes less time and memory.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
                stack.enter_context(TwiceDifferentiable())
                stack.enter_context(recomputing_under(TwiceDifferentiable))
            if self.fixed_randomness is not None:
                stack.enter_context(self.preserved())
                torch.manual_seed(self.fixed_randomness)
            yield

    def loss(self, points: dict[str, Tensor], batch: Any) -> Tensor:
        """Return the mean loss at these values of the selected parameters."""
        with self._refusing_randomness():
            loss = self.model.loss(points, batch)
        return self._mean(loss, points)

    def again(self, points: dict[str, Tensor], batch: Any) -> tuple[Tensor, list[str]]:
        """Return the mean loss in the next call, and the names of the buffers that the first one has changed."""
        with self._refusing_randomness():
            loss, changed = self.model.again(points, batch)
        return self._mean(loss, points), changed

    def gradients(self, loss: Tensor, points: dict[str, Tensor], *, create_graph: bool = False) -> list[Tensor | None]:
        """Return the gradient of a loss in each of the leaves, None where it does not depend on one."""
        moving = [point for point in points.values() if point.requires_grad and loss.requires_grad]
        found: Iterator[Tensor | None] = iter(())
        if moving:
            call = functools.partial(torch.autograd.grad, loss, moving, create_graph=create_graph, allow_unused=True)
            found = iter(self.model.holding(points, call))
        return [next(found, None) if point.requires_grad else None for point in points.values()]

    def outputs(self, points: dict[str, Tensor], batch: Any) -> Tensor:
        """Return the outputs at these values of the selected parameters."""
        with self._refusing_randomness():
            outputs = self.model.outputs(points, batch)
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.numel() == 0:
            raise not_real_outputs(_described(outputs))
        if not torch.isfinite(outputs).all():
            raise self._not_finite("the outputs hold NaN or infinity", points)
        return outputs

    def criterion(self, points: dict[str, Tensor], batch: Any) -> Callable[[Tensor], Tensor]:
        """Return the mean loss of a batch as a function of outputs, and of nothing else that moves.

        Parameters
        ----------
        points : dict
            The leaves that stand for the parameters.
        batch
        """

        def compare(outputs: Tensor) -> Tensor:
            with self._refusing_randomness():
                loss = self.model.compare(points, outputs, batch)
            mean = self._mean(loss, {})
            own = [tensor for name, tensor in self.model.named_state() if name in points]
            if depends_on(mean, [*points.values(), *own]):
                raise criterion_of_parameters()
            return mean

        return compare

    @contextlib.contextmanager
    def _refusing_randomness(self) -> Iterator[None]:
        with refusing_global_draws():
            if self.fixed_randomness is not None:
                yield
                return
            before = self._random_state()
            yield
        if any(not torch.equal(old, new) for old, new in zip(before, self._random_state(), strict=True)):
            raise NondeterministicError(
                "the forward pass draws random numbers, so every product would be of another matrix. Switch dropout "
                "and sampling off (model.eval()), or pass fixed_randomness=0 for the curvature under one fixed mask."
            )

    def _mean(self, loss: Any, points: dict[str, Tensor]) -> Tensor:
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            raise no_scalar(_described(loss), loss)
        if not torch.isfinite(loss):
            error = self._not_finite(f"the loss is {loss.item()}", points)
            error.value = loss.item()
            raise error
        return loss.reshape(())

    def _not_finite(self, what: str, points: dict[str, Tensor]) -> NonFiniteError:
        state = dict(self.model.named_state()) | points
        bad = [name for name, tensor in state.items() if not all(torch.isfinite(part).all() for part in parts(tensor))]
        return not_finite(what, bad)

    def _random_state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self.drawing)]


def _described(found: Any) -> str:
    return f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__


class TwiceDifferentiable(TorchFunctionMode):
    """Replaces what has a wrong second derivative in torch, or one that takes much memory, by the right one in less."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The derivative of the fused kernel's backward pass takes the norms for constants.
        if function is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        if function is functional.cross_entropy:
            return cross_entropy(*args, **(kwargs or {}))
        if function is functional.linear:
            return linear(*args, **(kwargs or {}))
        if function in MATRIX_PRODUCTS and not kwargs:
            return matrix_product(function, *args)
        return function(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))
