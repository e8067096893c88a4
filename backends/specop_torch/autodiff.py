"""Loss, gradient and products with curvature matrices of a torch model, for one batch.

The user's tensors are only read. Derivatives are taken with respect to detached leaves that share their memory, the
model runs on copies of its buffers, and the random state is put back.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.objectives.autodiff import Linearization, Matrix, Same
from specop.objectives.likelihoods import (
    Likelihood,
    by_sample,
    candidates,
    fits,
    importance,
    label_noise,
    readings,
    recognise,
)
from specop.objectives.one_batch import OneBatch
from specop.objectives.parameters import unchanged
from specop.objectives.refusals import independent, wrong_likelihood
from specop.statistics.numbers import Floats
from specop_torch.arrays import TorchBackend, backend, numpy_dtype, torch_dtype
from specop_torch.checksums import checksums, content
from specop_torch.custom_functions import check_custom_functions
from specop_torch.described import describe
from specop_torch.evaluation import Evaluation
from specop_torch.graph import coarsest, refuse_bypassed, refuse_first_order
from specop_torch.likelihoods import FUNCTIONS, likelihood_of
from specop_torch.memory import free_memory, held_bytes, is_out_of_memory, is_unwatched
from specop_torch.models import Model, ModuleModel
from specop_torch.products import (
    Multiply,
    double_backward,
    jacobian,
    output_gradient,
    output_hessian,
    transposed_jacobian,
)
from specop_torch.samples import SampleGradients, check_samples
from specop_torch.structures import TREES, normal, parts
from specop_torch.tape import Tape, record
from specop_torch.trained import check_trained
from specop_torch.wide import wide, widened

__all__ = ["TorchAutodiff", "make_autodiff"]


def make_autodiff(
    model: Any,
    criterion: Callable[..., Tensor] | None,
    *,
    params: Any = None,
    select: Any = None,
    forward: Callable[[Any, Any], Any] | None = None,
    likelihood: str | None = None,
    fixed_randomness: int | None = None,
) -> TorchAutodiff:
    """Return the one-batch derivatives of a module or of a function of a parameter structure."""
    described = describe(model, criterion, params, forward, fixed_randomness)
    name = recognise(criterion, likelihood, likelihood_of)
    return TorchAutodiff(described, described.select(select), name, fixed_randomness)


class TorchAutodiff(OneBatch):
    """`specop.objectives.Autodiff` on torch autograd.

    Attributes
    ----------
    sharing : int
        How many processes ask at the same time for what is free on the device, each for its own.
    """

    backend: TorchBackend = backend
    sharing = 1
    trees = TREES
    witness_samples = 4
    is_out_of_memory = staticmethod(is_out_of_memory)

    def __init__(
        self,
        model: Model,
        selected: Mapping[str, Tensor],
        likelihood: str | None,
        fixed_randomness: int | None,
    ) -> None:
        sparse = [name for name, tensor in selected.items() if tensor.layout is not torch.strided]
        if sparse:
            raise InvalidInputError(
                f"the parameter {sparse[0]!r} is sparse, and so would be its gradient. Hold its values in a dense "
                f"parameter, and make the sparse tensor of them in the forward pass; or leave it out by select=."
            )
        self.device = _largest(selected.values())
        self.dtype = max((numpy_dtype(tensor.dtype) for tensor in selected.values()), key=lambda kind: kind.itemsize)
        super().__init__(
            model, selected, likelihood, fixed_randomness, lambda size: Layout(size, self.dtype, self.device)
        )
        self.devices = tuple(dict.fromkeys(tensor.device for tensor in [*selected.values(), *model.state()]))
        # What a module is called with is where its first parameter is: those that are selected may come later.
        first = next(iter(model.parameters().values() if isinstance(model, ModuleModel) else selected.values()))
        self._entry = first.device
        self._evaluation = Evaluation(model, self.devices, fixed_randomness)
        self._seen_through = False
        self._differentiates = False
        self._inside = 0.0

    @property
    def precision(self) -> float:
        """Rounding error of products: of the least exact dtype in use, of autocast or TF32 where these are on."""
        rounding = max(self._inside, *(torch.finfo(tensor.dtype).eps for tensor in self.parameters.values()))
        autocast = self._autocast()
        if autocast is not None and rounding > 1e-10:
            rounding = max(rounding, torch.finfo(autocast).eps)
        allowed = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        tf32 = allowed and any(device.type == "cuda" for device in self.devices)
        return max(rounding, 2.0**-11) if tf32 and rounding > 1e-10 else rounding

    def fingerprint(self, *, fixed: bool = False) -> tuple[Any, ...]:
        """Return a checksum of everything the loss depends on besides the data, and theta if that is fixed."""
        replaced = set(self.names) if fixed else set()
        # Inside autocast the same model is another function.
        modes = (*self.model.modes(), self._autocast(), *map(Same, self.model.all_layers()))
        return (*modes, *checksums(tensor for name, tensor in self.model.named_state() if name not in replaced))

    def named_checksums(self) -> dict[str, tuple[int, ...]]:
        """Return checksums of parameters and buffers."""
        return {name: checksums([tensor]) for name, tensor in self.model.named_state()}

    def free_memory(self) -> int:
        """Return the bytes that are free on the parameters' device; of several, on the one that has least."""
        return min(map(free_memory, self.devices)) // self.sharing

    def preserved(self) -> contextlib.AbstractContextManager[None]:
        """Put torch's random state back on leaving."""
        return self._evaluation.preserved()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold the model in evaluation mode, unless its randomness is fixed, and outside of the caller's autocast."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(super().evaluating())
            for kind in self._autocasting():
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield

    # Batches
    def prepare(self, batch: Any) -> Any:
        """Return the batch where the model's first parameter is; what is there already is not copied."""
        with torch.inference_mode(False):
            return TREES.map(lambda tensor: normal(tensor.to(self._entry, non_blocking=True)), batch)

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that the batch's arrays take."""
        return sum(part.numel() * part.element_size() for leaf in TREES.arrays(batch) for part in parts(leaf))

    def batch_versions(self, batch: Any) -> tuple[Any, ...]:
        """Return what changes with the batch's tensors: checksums, of watched ones elsewhere version counters."""
        return tuple(
            content(leaf) if leaf.is_cpu or is_unwatched(leaf) else (Same(leaf), leaf._version)
            for leaf in TREES.arrays(batch)
        )

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]:
        """Return a checksum of the batch's arrays."""
        return checksums(TREES.arrays(batch))

    # Derivatives
    def loss(self, theta: Tensor | None, batch: Any) -> Tensor:
        """Return the loss as a detached scalar."""
        # A graph shows what a loss reads. Once is enough: it is a property of the model.
        first = not self._seen_through

        def call() -> Tensor:
            loss = self._evaluation.loss(self._leaves(theta, requires_grad=first), batch)
            self._see_through(loss, self.current())
            return loss.detach().to(self.device)

        return self._evaluated(call, graph=first)

    def gradient(self, theta: Tensor | None, batch: Any) -> tuple[Tensor, Tensor]:
        """Return loss and gradient."""
        with self._evaluation.running(twice_differentiable=False), torch.enable_grad():
            points = self._leaves(theta, requires_grad=True)
            loss, gradients = self._differentiate(points, self.current(), batch, create_graph=False)
            return loss.detach().to(self.device), self._join(gradients)

    def check_trained(self, theta: Tensor | None, batch: Any, changed: Callable[[], list[str]]) -> None:
        """Raise unless two calls of the loss agree, and the gradient is that which ``loss.backward()`` leaves."""
        with torch.inference_mode(False):
            once, again = (self._leaves(theta, requires_grad=True) for _ in range(2))
            check_trained(self._evaluation, once, again, self.current(), batch, self.precision, changed)

    def _constant_entries(self) -> Iterator[tuple[str, int, int]]:
        """Yield frozen parameters, and the padding rows of embeddings."""
        rows = self.model.padding_rows()
        for name, tensor in self.parameters.items():
            if name in self.model.constants:
                yield name, 0, tensor.numel()
            elif name in rows:
                yield name, rows[name] * tensor.shape[1], (rows[name] + 1) * tensor.shape[1]

    @contextlib.contextmanager
    def _widened(self, batch: Any) -> Iterator[Any]:
        selected = {name: wide(tensor) for name, tensor in self.parameters.items()}
        yield type(self)(widened(self.model), selected, self.likelihood, None), TREES.map(wide, batch)

    def _state(self) -> list[Tensor]:
        return self.model.state()

    def outputs(self, theta: Tensor | None, batch: Any) -> Tensor:
        """Return what the criterion is given as a vector."""
        points = self._leaves(theta, requires_grad=False)
        found = self._evaluated(lambda: self._evaluation.outputs(points, batch).detach())
        return self._flat(found, found.numel())

    def _evaluated(self, call: Callable[[], Tensor], *, graph: bool = False) -> Tensor:
        """Return what a call of the model gives, without a graph unless the model takes derivatives itself."""
        if not (graph or self._differentiates):
            try:
                with self._evaluation.running(twice_differentiable=False), torch.no_grad():
                    return call()
            except RuntimeError as error:
                # Forces are derivatives of an energy, residuals those of a solution.
                if "does not require grad" not in str(error):
                    raise
                self._differentiates = True
        with self._evaluation.running(twice_differentiable=False), torch.enable_grad():
            return call()

    def output_gradient(self, theta: Tensor | None, batch: Any, shift: Tensor) -> Tensor:
        """Return the criterion's gradient in the outputs as a vector, at outputs that are moved by another one."""
        with self._evaluation.running(twice_differentiable=False), torch.enable_grad():
            points = self._leaves(theta, requires_grad=False)
            outputs = self._evaluation.outputs(points, batch).detach()
            moved = outputs + self._like(shift, outputs)
            found = output_gradient(self._evaluation.criterion(points, batch), moved)
            return self._flat(found, found.numel())

    def importance(self, theta: Tensor | None, batch: Any) -> Floats:
        """Return what each row of the outputs may add to curvature."""
        points = self._leaves(theta, requires_grad=False)
        outputs = self._evaluated(lambda: self._evaluation.outputs(points, batch).detach())
        with self._evaluation.running(), torch.enable_grad():
            criterion = self._evaluation.criterion(points, batch)
            gradient = output_gradient(criterion, outputs)
            terms = None
            if self.likelihood is not None:
                likelihood, weights = self._terms(functools.partial(output_hessian, criterion), outputs)
                terms = likelihood, outputs, weights
            (found,) = self.backend.to_host(importance(FUNCTIONS, gradient, outputs.ndim, terms).reshape(-1))
        return found

    def linearize(self, theta: Tensor | None, batch: Any, vector: Tensor, matrix: Matrix) -> Linearization:
        """Return the product with a vector, and what multiplies others without another look at model or data."""
        with self._evaluation.running(), torch.enable_grad():
            product = self._product(theta, batch, matrix, retain_graph=True)
            parts, tape = record(product.multiply, product.inputs(vector.detach()))
        held = held_bytes(tape.constants, self.model.state())
        # The retained graph costs about as much a product as the tape; it only holds more.
        apply = replace(product, multiply=tape.replay, graph=()) if isinstance(tape, Tape) else product
        return Linearization(product.result(parts), apply, held)

    def product(self, theta: Tensor | None, batch: Any, vector: Tensor, matrix: Matrix) -> Tensor:
        """Return the product with a vector and keep nothing."""
        with self._evaluation.running(), torch.enable_grad():
            return self._product(theta, batch, matrix, retain_graph=False)(vector)

    def sample_gradients(self, theta: Tensor | None, batch: Any) -> Callable[[int, int], Tensor]:
        """Return what gives the gradient's parts, as rows, for a range of samples."""
        rows = self._samples(theta, batch)

        def between(start: int, stop: int) -> Tensor:
            with self._evaluation.running(), torch.enable_grad():
                return self._join(rows(start, stop), (stop - start,))

        return between

    def _samples(self, theta: Tensor | None, batch: Any) -> SampleGradients:
        with self._evaluation.running(), torch.enable_grad():
            points, outputs = self._of_samples(theta, batch)
            gradient = output_gradient(self._evaluation.criterion(points, batch), outputs)
        return SampleGradients(self.model, points, batch, outputs, gradient, self.precision)

    def sample_traces(
        self, theta: Tensor | None, batch: Any, signs: Callable[[int], NDArray[np.int8]]
    ) -> Callable[[int, int], Floats]:
        """Return what gives, for a range of samples, what they add to the trace of the Gauss-Newton matrix."""
        with self._evaluation.running(), torch.enable_grad():
            points, outputs = self._of_samples(theta, batch)
            curvature = functools.partial(output_hessian, self._evaluation.criterion(points, batch))
            likelihood, weights = self._terms(curvature, outputs)
            drawn = torch.from_numpy(signs(outputs[0].numel())).to(outputs).reshape(outputs.shape)
            precision = torch.finfo(outputs.dtype).eps
            measured = likelihood.deviation(curvature, outputs, weights, drawn, precision)
            if not fits(self.backend.to_host(*measured), precision**0.5):
                raise wrong_likelihood(self.likelihood, outputs.shape)
            roots = likelihood.root(outputs, weights)(drawn)
        rows = SampleGradients(self.model, points, batch, outputs, roots, self.precision)

        def between(start: int, stop: int) -> Floats:
            with self._evaluation.running(), torch.enable_grad():
                found = [part.reshape(stop - start, -1) for part in rows(start, stop) if part is not None]
                squares = [torch.linalg.vector_norm(part, dim=1).to(self.device).square() for part in found]
                return sum(self.backend.to_host(*squares), start=np.zeros(stop - start))

        return between

    def _of_samples(self, theta: Tensor | None, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Return leaves for the parameters, and the outputs, whose leading dimension is that of samples."""
        points = self._leaves(theta, requires_grad=True)

        def call() -> Tensor:
            found = self._evaluation.outputs(points, batch)
            self._see_through(found, self.current())
            return found.detach()

        outputs = self._evaluated(call, graph=not self._seen_through)
        check_samples(self.model, outputs, self.trees.count(batch))
        return points, outputs

    def _product(self, theta: Tensor | None, batch: Any, matrix: Matrix, *, retain_graph: bool) -> _Product:
        leaves, own = self._leaves(theta, requires_grad=True), self.current()
        product = self.model.holding(leaves, lambda: self._product_at(leaves, own, batch, matrix, retain_graph))
        return replace(product, multiply=lambda tensors: self.model.holding(leaves, lambda: product.multiply(tensors)))

    def _product_at(
        self, leaves: dict[str, Tensor], own: dict[str, Tensor], batch: Any, matrix: Matrix, retain_graph: bool
    ) -> _Product:
        points = list(leaves.values())
        if matrix.kind in ("hessian", "output curvature"):
            if matrix.kind == "hessian":
                _, gradients = self._differentiate(leaves, own, batch, create_graph=True)
            else:
                gradients = self._pulled_residual(leaves, own, batch)
            curved = double_backward(gradients, points, retain_graph=retain_graph)
            return _Product(self._operands, curved, self._join, [one for one in gradients if one is not None])
        outputs = self._evaluation.outputs(leaves, batch)
        self._see_through(outputs, own)
        if not outputs.requires_grad:
            raise self._independent()
        pull = transposed_jacobian(outputs, points)
        if matrix.kind == "transposed jacobian":
            like = outputs.detach()
            return _Product(lambda vector: [self._like(vector, like)], pull, self._join, [outputs])
        refuse_first_order(outputs)
        check_custom_functions(outputs, lambda: self._evaluation.outputs(leaves, batch), curved=False)
        push, slopes = jacobian(outputs, points)
        if matrix.kind == "jacobian":
            size = outputs.numel()
            return _Product(self._operands, push, lambda parts: self._flat(parts[0], size), slopes)
        middle = self._output_matrix(leaves, outputs.detach(), batch, matrix)

        def multiply(vectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
            (along,) = push(vectors)
            return [None] * len(points) if along is None else pull([middle(along)])

        return _Product(self._operands, multiply, self._join, slopes)

    def _output_matrix(
        self, points: dict[str, Tensor], outputs: Tensor, batch: Any, matrix: Matrix
    ) -> Callable[[Tensor], Tensor]:
        """Return u -> M u for the matrix J' M J."""
        criterion, samples = self._evaluation.criterion(points, batch), self.trees.count(batch)
        curvature = functools.partial(output_hessian, criterion)
        is_empirical = matrix.kind.startswith("empirical fisher")
        if is_empirical:
            check_samples(self.model, outputs, samples)
            slope = output_gradient(criterion, outputs)
        if matrix.kind == "empirical fisher of samples":
            return by_sample(FUNCTIONS, slope, outputs.ndim)
        # A likelihood that the user names is checked, that of a criterion which torch brings is known.
        if matrix.kind == "ggn" and self.likelihood in (None, likelihood_of(self.model.calling.criterion.value)):
            return curvature(outputs)
        likelihood, weights = self._terms(curvature, outputs)
        if is_empirical:
            return likelihood.empirical(slope, weights, outputs.ndim)
        if matrix.kind == "ggn":
            return curvature(outputs)
        if matrix.kind == "fisher":
            return likelihood.information(outputs, weights)
        noise = torch.from_numpy(label_noise(likelihood.name, matrix, samples, weights.numel()))
        # In a dtype that every device has.
        noise = noise.to(outputs.device, torch.promote_types(outputs.dtype, torch.float32))
        return likelihood.sampled(outputs, weights, noise)

    def _terms(
        self, curvature: Callable[[Tensor], Callable[[Tensor], Tensor]], outputs: Tensor
    ) -> tuple[Likelihood, Tensor]:
        """Return the reading of the likelihood that fits the criterion, and the terms' weights."""
        tolerance = torch.finfo(outputs.dtype).eps ** 0.5
        for name in candidates(self.likelihood):
            for likelihood in readings(FUNCTIONS, name, outputs.ndim):
                weights, measured = likelihood.terms(curvature, outputs)
                if fits(self.backend.to_host(*measured), tolerance):
                    return likelihood, weights
        raise wrong_likelihood(self.likelihood, outputs.shape)

    def _leaves(self, theta: Tensor | None, *, requires_grad: bool) -> dict[str, Tensor]:
        values = self._current() if theta is None else self._operands(theta)
        constant = self.model.constants
        return {
            name: value.requires_grad_() if requires_grad and name not in constant else value
            for name, value in zip(self.names, [normal(value.detach()) for value in values], strict=True)
        }

    def _current(self) -> list[Tensor]:
        return unchanged(
            self.parameters, dict(self.model.named_state()), lambda one: (tuple(one.shape), one.dtype, one.device)
        )

    def _differentiate(
        self, points: dict[str, Tensor], own: dict[str, Tensor], batch: Any, *, create_graph: bool
    ) -> tuple[Tensor, list[Tensor | None]]:
        loss = self._evaluation.loss(points, batch)
        self._see_through(loss, own)
        if create_graph and loss.requires_grad:
            refuse_first_order(loss)
            check_custom_functions(loss, lambda: self._evaluation.loss(points, batch), curved=True)
        gradients = self._evaluation.gradients(loss, points, create_graph=create_graph)
        if all(gradient is None for gradient in gradients):
            raise self._independent()
        return loss, gradients

    def _pulled_residual(self, points: dict[str, Tensor], own: dict[str, Tensor], batch: Any) -> list[Tensor | None]:
        """Return J'r, where J moves with the parameters, and the criterion's gradient r in the outputs does not."""
        outputs = self._evaluation.outputs(points, batch)
        self._see_through(outputs, own)
        refuse_first_order(outputs)
        check_custom_functions(outputs, lambda: self._evaluation.outputs(points, batch), curved=True)
        residual = output_gradient(self._evaluation.criterion(points, batch), outputs.detach())
        return self._evaluation.gradients((outputs * residual).sum(), points, create_graph=True)

    def _autocast(self) -> torch.dtype | None:
        """Return the dtype that products of matrices run in, if the caller has switched that on."""
        return next((torch.get_autocast_dtype(kind) for kind in self._autocasting()), None)

    def _autocasting(self) -> list[str]:
        """Return the kinds of the model's devices on which the caller has switched autocast on."""
        kinds = dict.fromkeys(device.type for device in self.devices)
        return [kind for kind in kinds if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)]

    def _see_through(self, value: Tensor, own: dict[str, Tensor]) -> None:
        if not self._seen_through:
            refuse_bypassed(value, own)
            self._inside = coarsest(value)
            self._seen_through = True

    def _independent(self) -> InvalidInputError:
        return independent(self.names, "detach() or no_grad()")

    def _operands(self, vector: Tensor) -> list[Tensor]:
        """Return a vector as tensors like the leaves."""
        return self._split(vector)

    def _split(self, vector: Tensor) -> list[Tensor]:
        return [
            piece.view(tensor.shape).to(tensor.device, tensor.dtype)
            for piece, tensor in zip(vector.split(self.sizes), self.parameters.values(), strict=True)
        ]

    def _join(self, parts: Sequence[Tensor | None], rows: tuple[int, ...] = ()) -> Tensor:
        dtype = torch_dtype(self.dtype)
        flat = [
            torch.zeros(*rows, size, dtype=dtype, device=self.device)
            if part is None
            else part.detach().reshape(*rows, -1).to(self.device, dtype)
            for part, size in zip(parts, self.sizes, strict=True)
        ]
        return torch.cat(flat, dim=-1)

    def _flat(self, outputs: Tensor | None, size: int) -> Tensor:
        dtype = torch_dtype(self.dtype)
        if outputs is None:
            return torch.zeros(size, dtype=dtype, device=self.device)
        # A copy: what a tape returns may be a constant of it.
        return outputs.detach().reshape(-1).to(self.device, dtype, copy=True)

    def _like(self, vector: Tensor, outputs: Tensor) -> Tensor:
        """Return a vector of the outputs' entries in their shape."""
        return vector.reshape(outputs.shape).to(outputs)


@dataclass(frozen=True)
class _Product:
    """A product of vectors, made of one of tensors: by autograd, or from what is kept, a tape or a graph."""

    inputs: Callable[[Tensor], list[Tensor]]
    multiply: Multiply
    result: Callable[[Sequence[Tensor | None]], Tensor]
    graph: Sequence[Tensor]
    """What its graph is reached from."""

    def __call__(self, vector: Tensor) -> Tensor:
        return self.result(self.multiply(self.inputs(vector.detach())))


def _largest(tensors: Iterable[Tensor]) -> torch.device:
    """Return the device that holds most of the tensors' entries; the first of several."""
    held: dict[torch.device, int] = {}
    for tensor in tensors:
        held[tensor.device] = held.get(tensor.device, 0) + tensor.numel()
    return max(held, key=lambda device: held[device])
