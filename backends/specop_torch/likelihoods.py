r"""Likelihoods that a criterion is the negative logarithm of.

The losses of terms i add up to :math:`\ell = \sum_i c_i (A(z_i) - z_i^T t_i)` with the log-partition A of the family:
log-sum-exp for a categorical, softplus for a Bernoulli variable, :math:`z^2 / 2` for a Gaussian. What a criterion does
besides (means, class weights, ignored labels, label smoothing, :math:`1/C` of a squared error) is in the weights
:math:`c_i`, and these are read off its second derivative: no option of any criterion has to be known.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from specop.arrays import probes
from specop.errors import InvalidInputError
from specop.objectives.autodiff import Matrix
from specop.objectives.refusals import check_likelihood, wrong_likelihood
from specop_torch.products import output_hessian

__all__ = ["Likelihood", "recognise"]

_LOSSES: dict[Any, str] = {
    nn.CrossEntropyLoss: "categorical",
    functional.cross_entropy: "categorical",
    nn.BCEWithLogitsLoss: "bernoulli",
    functional.binary_cross_entropy_with_logits: "bernoulli",
    nn.MSELoss: "gaussian",
    functional.mse_loss: "gaussian",
}


def recognise(criterion: Any, given: str | None) -> Likelihood | None:
    """Return the likelihood that the user names, or that of torch's own criterion; None for another.

    Parameters
    ----------
    criterion : callable or None
    given : str or None
        The name that the user gave.
    """
    function = criterion
    while isinstance(function, functools.partial):
        function = function.func
    known = next((name for loss, name in _LOSSES.items() if function is loss or type(function) is loss), None)
    check_likelihood(criterion, given)
    if given is None:
        return None if known is None else Likelihood(known)
    if known is not None and given != known:
        raise InvalidInputError(f"the criterion's likelihood is {known}, not {given}.")
    return Likelihood(given)


@dataclass(frozen=True)
class Likelihood:
    """A family of distributions with natural parameters z, the model's outputs."""

    name: str

    def fisher(self, criterion: Callable[[Tensor], Tensor], outputs: Tensor) -> Callable[[Tensor], Tensor]:
        """Return u -> M u with M of blocks c_i E[s s'], s the score of a label drawn from the model.

        Parameters
        ----------
        criterion : callable
            From outputs to mean loss.
        outputs : Tensor
            Detached.
        """
        axis, weights = self._terms(criterion, outputs)
        return self._weighted_hessian(outputs, axis, weights)

    def sampled_fisher(
        self, criterion: Callable[[Tensor], Tensor], outputs: Tensor, matrix: Matrix, samples: int
    ) -> Callable[[Tensor], Tensor]:
        """Return the same with the mean over labels drawn for the batch's samples."""
        axis, weights = self._terms(criterion, outputs)
        scores = torch.stack([self._score(outputs, axis, matrix, samples, index) for index in range(matrix.draws)])
        scores = scores * (weights / matrix.draws).sqrt()
        if self.name == "categorical":
            along = axis if axis < 0 else axis + 1
            return lambda u: (scores * (scores * u).sum(along, keepdim=True)).sum(0)
        # Each entry has a label of its own, independent of the others.
        squares = scores.square().sum(0)
        return lambda u: squares * u

    def check(self, criterion: Callable[[Tensor], Tensor], outputs: Tensor) -> None:
        """Raise InvalidInputError unless the criterion is the negative logarithm of this likelihood."""
        self._terms(criterion, outputs)

    def _terms(self, criterion: Callable[[Tensor], Tensor], outputs: Tensor) -> tuple[int, Tensor]:
        """Return the axis of classes and the weight of each term, of the outputs' shape but for that axis."""
        # A point in the middle of the family, where no probability is near zero, shows what the criterion is.
        steps = torch.arange(outputs.numel(), device=outputs.device, dtype=torch.float32)
        point = torch.sin(steps).mul_(1.5).to(outputs.dtype).reshape(outputs.shape)
        direction = torch.cos(1.7 * steps).to(outputs.dtype).reshape(outputs.shape)
        found = output_hessian(criterion, point)(direction)
        # Torch has the classes in the second dimension; many models have them in the last one, and a criterion that
        # flattens.
        axes = [-1] if self.name != "categorical" or outputs.ndim < 3 else [1, -1]
        tolerance = torch.finfo(outputs.dtype).eps ** 0.5
        for axis in axes:
            weights = self._weights(criterion, outputs, axis)
            expected = self._weighted_hessian(point, axis, weights)(direction)
            if (found - expected).norm() <= tolerance * expected.norm() and bool((weights >= 0).all()):
                return axis, weights
        raise wrong_likelihood(self.name, outputs.shape)

    def _weights(self, criterion: Callable[[Tensor], Tensor], outputs: Tensor, axis: int) -> Tensor:
        zero = torch.zeros_like(outputs)
        if self.name == "categorical":
            # Along the first class, where all have probability 1/K.
            direction = torch.zeros_like(outputs)
            direction.select(axis, 0).fill_(1.0)
            classes = outputs.shape[axis]
            found = output_hessian(criterion, zero)(direction).select(axis, 0).unsqueeze(axis)
            return found / (1 / classes - 1 / classes**2)
        found = output_hessian(criterion, zero)(torch.ones_like(outputs))
        return 4 * found if self.name == "bernoulli" else found

    def _weighted_hessian(self, z: Tensor, axis: int, weights: Tensor) -> Callable[[Tensor], Tensor]:
        if self.name == "categorical":
            p = torch.softmax(z, axis)
            scaled = weights * p
            return lambda u: scaled * (u - (p * u).sum(axis, keepdim=True))
        if self.name == "bernoulli":
            variance = weights * torch.sigmoid(z) * torch.sigmoid(-z)
            return lambda u: variance * u
        return lambda u: weights * u

    def _score(self, z: Tensor, axis: int, matrix: Matrix, samples: int, index: int) -> Tensor:
        """Return mean minus label, for labels drawn at the outputs."""
        terms = z.numel() // z.shape[axis] if self.name == "categorical" else z.numel()
        drawn = probes.label_noise(self.name, matrix.seed, index, matrix.first, samples, terms)
        noise = torch.from_numpy(drawn).to(device=z.device, dtype=torch.promote_types(z.dtype, torch.float32))
        if self.name == "gaussian":
            return noise.to(z.dtype).reshape(z.shape)
        if self.name == "bernoulli":
            p = torch.sigmoid(z)
            return p - (noise.reshape(z.shape) < p).to(z.dtype)
        p = torch.softmax(z, axis)
        below = p.to(noise.dtype).cumsum(axis).movedim(axis, -1)
        labels = (below < noise.reshape(below.shape[:-1]).unsqueeze(-1)).sum(-1).clamp(max=z.shape[axis] - 1)
        return p - torch.zeros_like(p).scatter_(axis, labels.unsqueeze(axis), 1.0)
