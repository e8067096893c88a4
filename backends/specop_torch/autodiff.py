"""Loss, gradient and products with curvature matrices of a torch model, for one batch.

The user's tensors are only read. Derivatives are taken with respect to detached leaves that share their memory, the
model runs on copies of its buffers, and the random state is put back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specop.errors import InvalidInputError
from specop.objectives.autodiff import Linearization, Matrix
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
from specop.objectives.refusals import independent, wrong_likelihood
from specop.statistics.numbers import Floats
from specop_torch.compilation import compiled
from specop_torch.custom_functions import check_custom_functions
from specop_torch.described import describe
from specop_torch.graph import coarsest, refuse_bypassed, refuse_first_order
from specop_torch.likelihoods import FUNCTIONS, likelihood_of
from specop_torch.memory import held_bytes
from specop_torch.parameters import TorchParameters
from specop_torch.products import (
    Multiply,
    double_backward,
    jacobian,
    output_gradient,
    output_hessian,
    transposed_jacobian,
)
from specop_torch.pullback import place_of
from specop_torch.samples import SampleGradients, check_samples
from specop_torch.structures import normal
from specop_torch.tape import Tape, record
from specop_torch.trained import check_trained

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


class TorchAutodiff(TorchParameters):
    """`specop.objectives.Autodiff` on torch autograd.

    Attributes
    ----------
    compiles : bool
        Whether recorded products are compiled.
    """

    compiles = False

    def restrict(self, select: Any) -> Self:
        """Return the same for a part of the parameters selected now."""
        part = super().restrict(select)
        part.compiles = self.compiles
        return part

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
        """Return the criterion's gradient in the outputs as a vector, at outputs moved by another; it is consumed."""
        with self._evaluation.running(twice_differentiable=False), torch.enable_grad():
            points = self._leaves(theta, requires_grad=False)
            outputs = self._evaluation.outputs(points, batch).detach()
            moved = [normal(self._like(shift, outputs)).add_(outputs)]
            # With many classes each such array counts: in the backward pass nobody holds these any more.
            del shift, outputs
            found = output_gradient(self._evaluation.criterion(points, batch), moved.pop())
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
                curvature = functools.partial(output_hessian, criterion)
                if self._reading is None or self._reading[0] != outputs.ndim:
                    self._reading = outputs.ndim, self._terms(curvature, outputs)[0]
                # It has fitted one batch; of others a wrong weight makes their samples likelier, and no answer wrong.
                likelihood = self._reading[1]
                terms = likelihood, outputs, likelihood.weights(curvature, outputs)
            (found,) = self.backend.to_host(importance(FUNCTIONS, gradient, outputs.ndim, terms).reshape(-1))
        return found

    def linearize(self, theta: Tensor | None, batch: Any, vector: Tensor, matrix: Matrix) -> Linearization:
        """Return the product with a vector, and what multiplies others without another look at model or data."""
        with self._evaluation.running(), torch.enable_grad():
            product = self._product(theta, batch, matrix, retain_graph=True)
            operands = product.inputs(vector.detach())
            parts, tape = record(product.multiply, operands)
        held = held_bytes(tape.constants, self.model.state())
        if self.compiles:
            apply = replace(product, multiply=compiled(tape, operands), graph=())
        else:
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
            self._compared = True
        return SampleGradients(self.model, points, batch, outputs, gradient, self.precision)

    def sample_traces(
        self, theta: Tensor | None, batch: Any, signs: Callable[[int], NDArray[np.int8]]
    ) -> Callable[[int, int], Floats]:
        """Return what gives, for a range of samples, what they add to the trace of the Gauss-Newton matrix."""
        with self._evaluation.running(), torch.enable_grad():
            points, outputs = self._of_samples(theta, batch)
            curvature = functools.partial(output_hessian, self._evaluation.criterion(points, batch))
            likelihood, weights = self._terms(curvature, outputs)
            self._compared = True
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

        # What the model leaves behind for the criterion, such as a penalty, shows in a graph only.
        outputs = self._evaluated(call, graph=not (self._seen_through and self._compared))
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
        end, values = place_of(outputs), [outputs.detach()]
        pull = transposed_jacobian(end, points)
        if matrix.kind == "transposed jacobian":
            (like,) = values
            return _Product(lambda vector: [self._like(vector, like)], pull, self._join, [end])
        refuse_first_order(outputs)
        check_custom_functions(outputs, lambda: self._evaluation.outputs(leaves, batch), curved=False)
        push, slopes = jacobian(end, points)
        if matrix.kind == "jacobian":
            size = outputs.numel()
            return _Product(self._operands, push, lambda parts: self._flat(parts[0], size), slopes)
        # The criterion's derivatives may need no outputs: of a large vocabulary these would be one array too many.
        del outputs
        middle = self._output_matrix(leaves, values, batch, matrix)

        def multiply(vectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
            along = [one for one in push(vectors) if one is not None]
            return pull([middle(along.pop())]) if along else [None] * len(points)

        return _Product(self._operands, multiply, self._join, slopes)

    def _output_matrix(
        self, points: dict[str, Tensor], values: list[Tensor], batch: Any, matrix: Matrix
    ) -> Callable[[Tensor], Tensor]:
        """Return u -> M u for the matrix J' M J at outputs that are taken out of the list."""
        criterion, samples = self._evaluation.criterion(points, batch), self.trees.count(batch)
        # A likelihood that the user names is checked, that of a criterion which torch brings is known.
        if matrix.kind == "ggn" and self.likelihood in (None, likelihood_of(self.model.calling.criterion.value)):
            return output_hessian(criterion, values.pop())
        outputs, curvature = values.pop(), functools.partial(output_hessian, criterion)
        is_empirical = matrix.kind.startswith("empirical fisher")
        if is_empirical:
            check_samples(self.model, outputs, samples)
            slope = output_gradient(criterion, outputs)
        if matrix.kind == "empirical fisher of samples":
            return by_sample(FUNCTIONS, slope, outputs.ndim)
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

    def _see_through(self, value: Tensor, own: dict[str, Tensor]) -> None:
        if not self._seen_through:
            refuse_bypassed(value, own)
            self._inside = coarsest(value)
            self._seen_through = True

    def _independent(self) -> InvalidInputError:
        return independent(self.names, "detach() or no_grad()")


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
