"""Loss, gradient and Hessian-vector products of a torch model for one batch.

The user's tensors are only read. Derivatives are taken with respect to detached leaves that share their memory, the
model runs on copies of its buffers, and the random state is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from specop.autodiff import Linearization
from specop.backend import Layout
from specop.errors import InvalidInputError, NondeterministicError, NonFiniteError, ParametersChangedError
from specop_torch.arrays import TorchBackend, backend, numpy_dtype, torch_dtype
from specop_torch.checksums import checksum
from specop_torch.graph import refuse_first_order
from specop_torch.models import FunctionModel, Model, ModuleModel
from specop_torch.structures import leaves, move
from specop_torch.tape import Tape, record

__all__ = ["TorchAutodiff", "make_autodiff"]


def make_autodiff(
    model: Any,
    criterion: Callable[..., Tensor] | None,
    *,
    params: Any = None,
    select: Any = None,
    forward: Callable[[Any, Any], Any] | None = None,
    fixed_randomness: int | None = None,
) -> TorchAutodiff:
    """Return the one-batch derivatives of a module or of a function of a parameter structure."""
    if isinstance(model, nn.Module):
        if params is not None:
            raise InvalidInputError("params= is for plain functions; a module brings its own. Use select= for a part.")
        described: Model = ModuleModel(model, criterion, forward, check_modes=fixed_randomness is None)
    else:
        described = FunctionModel(model, criterion, params, forward)
    return TorchAutodiff(described, described.select(select), fixed_randomness)


class TorchAutodiff:
    """`specop.objectives.Autodiff` on torch autograd."""

    backend: TorchBackend = backend

    def __init__(self, model: Model, selected: Mapping[str, Tensor], fixed_randomness: int | None) -> None:
        self.model = model
        self.fixed_randomness = fixed_randomness
        self.parameters = dict(selected)
        self.names = tuple(selected)
        self._checked_randomness = False
        devices = {tensor.device for tensor in selected.values()}
        if len(devices) > 1:
            raise InvalidInputError(
                f"the selected parameters lie on several devices, {sorted(map(str, devices))}. Select a part of the "
                f"model that lies on one, or move the model to one."
            )
        (self.device,) = devices
        dtype = max((numpy_dtype(tensor.dtype) for tensor in selected.values()), key=lambda kind: kind.itemsize)
        self.layout = Layout.whole(sum(tensor.numel() for tensor in selected.values()), dtype, self.device)

    @property
    def precision(self) -> float:
        """Rounding error of products: of the least exact parameter dtype, or TF32's where it is switched on."""
        coarsest = max(torch.finfo(tensor.dtype).eps for tensor in self.parameters.values())
        tf32 = self.device.type == "cuda" and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
        return max(coarsest, 2.0**-11) if tf32 and coarsest > 1e-10 else coarsest

    def restrict(self, select: Any) -> TorchAutodiff:
        """Return the same for a part of the parameters selected now."""
        return TorchAutodiff(self.model, self.model.select(select, among=self.parameters), self.fixed_randomness)

    def flatten(self, tree: Any) -> Tensor:
        """Return a parameter structure, or a mapping from names to tensors, as a vector."""
        return self._vector(self.model.tensors_of(tree, self.parameters))

    def unflatten(self, vector: Tensor) -> Any:
        """Return a vector in the structure of the parameters: a mapping by name, or what the function takes."""
        self.backend.check_vector(vector, self.layout, "the vector")
        return self.model.structure_of(dict(zip(self.names, self._split(vector), strict=True)))

    def fingerprint(self, *, fixed: bool = False) -> tuple[int, ...]:
        """Return a checksum of everything the loss depends on besides the data, and theta if that is fixed."""
        replaced = set(self.names) if fixed else set()
        sums = [checksum(tensor) for name, tensor in self.model.named_state() if name not in replaced]
        return (*self.model.modes(), *(int(value) for value in (torch.stack(sums).tolist() if sums else ())))

    def free_memory(self) -> int:
        """Bytes that are free on the parameters' device."""
        if self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[0])
        return int(psutil.virtual_memory().available)

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Put torch's random state back on leaving."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            yield

    # Batches
    def prepare(self, batch: Any) -> Any:
        """Return the batch on the parameters' device."""
        return move(batch, self.device)

    def count(self, batch: Any) -> int:
        """Return the leading dimension of the batch's first array."""
        for leaf in leaves(batch):
            if leaf.ndim:
                return int(leaf.shape[0])
        return 1

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that the batch's arrays take."""
        return sum(leaf.numel() * leaf.element_size() for leaf in leaves(batch))

    def batch_versions(self, batch: Any) -> tuple[int, ...]:
        """Return the version counters of the batch's tensors."""
        return tuple(leaf._version for leaf in leaves(batch))

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]:
        """Return a checksum of the batch's arrays."""
        return tuple(int(checksum(leaf)) for leaf in leaves(batch))

    # Derivatives
    def loss(self, theta: Tensor | None, batch: Any) -> Tensor:
        """Return the loss as a detached scalar."""
        with torch.no_grad(), self._evaluation():
            return self._checked_loss(self._leaves(theta, requires_grad=False), batch).detach()

    def gradient(self, theta: Tensor | None, batch: Any) -> tuple[Tensor, Tensor]:
        """Return loss and gradient."""
        with torch.enable_grad(), self._evaluation():
            loss, gradients, _ = self._differentiate(theta, batch, create_graph=False)
            return loss.detach(), self._vector(gradients)

    def linearize(self, theta: Tensor | None, batch: Any, vector: Tensor) -> Linearization:
        """Return H v and what multiplies further vectors without another look at model or data."""
        with torch.enable_grad(), self._evaluation():
            _, gradients, points = self._differentiate(theta, batch, create_graph=True)
            multiply = _double_backward(gradients, points, retain_graph=True)
            parts, tape = record(multiply, self._split(vector.detach()))
        held = _bytes(tape.constants, self.model.state())
        if isinstance(tape, Tape):
            return Linearization(self._vector(parts), _Replay(self, tape), held)
        # The retained graph costs about as much a product; it only holds more.
        return Linearization(self._vector(parts), _RetainedGraph(self, multiply), held)

    def product(self, theta: Tensor | None, batch: Any, vector: Tensor) -> Tensor:
        """Return H v and keep nothing."""
        with torch.enable_grad(), self._evaluation():
            _, gradients, points = self._differentiate(theta, batch, create_graph=True)
            return self._vector(_double_backward(gradients, points, retain_graph=False)(self._split(vector.detach())))

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        # Fused attention has no second derivative; the others do.
        with sdpa_kernel(SDPBackend.MATH):
            if self.fixed_randomness is None:
                yield
            else:
                with self.preserved():
                    torch.manual_seed(self.fixed_randomness)
                    yield

    def _leaves(self, theta: Tensor | None, *, requires_grad: bool) -> dict[str, Tensor]:
        values = self._current() if theta is None else self._split(theta)
        constant = self.model.constants
        return {
            name: value.requires_grad_() if requires_grad and name not in constant else value
            for name, value in zip(self.names, [value.detach() for value in values], strict=True)
        }

    def _current(self) -> list[Tensor]:
        """Return the selected parameters as the model has them now: it may hold other tensors than at first."""
        held = dict(self.model.named_state())
        for name, known in self.parameters.items():
            now = held.get(name)
            if now is None or (now.shape, now.dtype, now.device) != (known.shape, known.dtype, known.device):
                what = "is gone" if now is None else f"is now {tuple(now.shape)}, {now.dtype}, on {now.device}"
                raise ParametersChangedError(f"parameter {name!r} {what}. Make a new objective for the changed model.")
        return [held[name] for name in self.names]

    def _differentiate(
        self, theta: Tensor | None, batch: Any, *, create_graph: bool
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor]]:
        points = self._leaves(theta, requires_grad=True)
        loss = self._checked_loss(points, batch)
        moving = [point for point in points.values() if point.requires_grad]
        if not loss.requires_grad:
            raise InvalidInputError(self._independent())
        if create_graph:
            refuse_first_order(loss)
        found = iter(torch.autograd.grad(loss, moving, create_graph=create_graph, allow_unused=True))
        gradients = [next(found) if point.requires_grad else None for point in points.values()]
        if all(gradient is None for gradient in gradients):
            raise InvalidInputError(self._independent())
        return loss, gradients, list(points.values())

    def _independent(self) -> str:
        return (
            f"the loss does not depend on any of the {len(self.names)} selected parameters, such as {self.names[0]!r}. "
            f"Select parameters that the forward pass uses, and look for detach() or no_grad() in it."
        )

    def _checked_loss(self, points: dict[str, Tensor], batch: Any) -> Tensor:
        # One look at the random state is enough: whether a forward pass draws is a property of the model.
        before = None if self._checked_randomness or self.fixed_randomness is not None else self._random_state()
        loss = self.model.loss(points, batch)
        if before is not None:
            if any(not torch.equal(old, new) for old, new in zip(before, self._random_state(), strict=True)):
                raise NondeterministicError(
                    "the forward pass draws random numbers, so every product would be of another matrix. Switch "
                    "dropout and sampling off (model.eval()), or pass fixed_randomness=0 for the curvature under one "
                    "fixed mask."
                )
            self._checked_randomness = True
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise InvalidInputError(
                f"the loss must be one real number, the mean over the batch; got {shape}. Use a criterion with "
                f"reduction='mean', or return loss.mean()."
            )
        if not torch.isfinite(loss):
            raise NonFiniteError(self._why_not_finite(loss, points))
        return loss.reshape(())

    def _why_not_finite(self, loss: Tensor, points: dict[str, Tensor]) -> str:
        state = dict(self.model.named_state()) | points
        bad = [name for name, tensor in state.items() if not torch.isfinite(tensor.detach()).all()]
        where = (
            f"These parameters or buffers, of the model or in theta, hold NaN or infinity: {', '.join(bad[:5])}. "
            f"Restore them from a checkpoint."
            if bad
            else "All parameters are finite: look at the data, and for log(0), division by zero or overflow."
        )
        return f"the loss is {loss.item()}. {where}"

    def _random_state(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return states

    def _split(self, vector: Tensor) -> list[Tensor]:
        sizes = [tensor.numel() for tensor in self.parameters.values()]
        return [
            piece.view(tensor.shape).to(tensor.dtype)
            for piece, tensor in zip(vector.split(sizes), self.parameters.values(), strict=True)
        ]

    def _vector(self, parts: Sequence[Tensor | None]) -> Tensor:
        dtype = torch_dtype(self.layout.dtype)
        return torch.cat(
            [
                torch.zeros(like.numel(), dtype=dtype, device=self.device)
                if part is None
                else part.detach().reshape(-1).to(dtype)
                for part, like in zip(parts, self.parameters.values(), strict=True)
            ]
        )


@dataclass(frozen=True)
class _Replay:
    """Product from a tape."""

    autodiff: TorchAutodiff
    tape: Tape

    def __call__(self, vector: Tensor) -> Tensor:
        return self.autodiff._vector(self.tape.replay(self.autodiff._split(vector.detach())))


@dataclass(frozen=True)
class _RetainedGraph:
    """Product from a graph that autograd keeps."""

    autodiff: TorchAutodiff
    multiply: Callable[[list[Tensor]], Sequence[Tensor | None]]

    def __call__(self, vector: Tensor) -> Tensor:
        return self.autodiff._vector(self.multiply(self.autodiff._split(vector.detach())))


def _double_backward(
    gradients: list[Tensor | None], points: list[Tensor], *, retain_graph: bool
) -> Callable[[list[Tensor]], Sequence[Tensor | None]]:
    """Return v -> d/dtheta (gradient . v); a parameter that the gradient does not depend on gets None."""
    curved = [i for i, gradient in enumerate(gradients) if gradient is not None and gradient.requires_grad]
    moving = [i for i, point in enumerate(points) if point.requires_grad]

    def multiply(vectors: list[Tensor]) -> Sequence[Tensor | None]:
        parts: list[Tensor | None] = [None] * len(points)
        if curved:
            try:
                found = torch.autograd.grad(
                    [gradient for gradient in gradients if gradient is not None and gradient.requires_grad],
                    [points[i] for i in moving],
                    [vectors[i] for i in curved],
                    retain_graph=retain_graph,
                    allow_unused=True,
                )
            except NotImplementedError as error:
                raise InvalidInputError(
                    f"torch has no second derivative of an operation of the forward pass: {error} Replace it by "
                    f"others, for example an EmbeddingBag by an Embedding and a sum."
                ) from error
            for i, part in zip(moving, found, strict=True):
                parts[i] = part
        return parts

    return multiply


def _bytes(constants: Sequence[Tensor], owned: Sequence[Tensor]) -> int:
    """Memory behind the constants that would be free without them."""
    known = {tensor.untyped_storage().data_ptr() for tensor in owned}
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in constants}
    return sum(size for pointer, size in held.items() if pointer not in known)
