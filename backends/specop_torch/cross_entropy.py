r"""The cross-entropy of a large vocabulary, with derivatives that hold one array as large as the logits.

For logits z of a row and its label y, :math:`\ell = \log \sum_j e^{z_j} - z_y` has the gradient :math:`p - e_y` and
the second derivative :math:`\mathrm{diag}(p) - p p^T`, p the probabilities, which are all that is held here. Torch
makes the loss of two functions, the logarithms of all probabilities and the choice of one, and derivatives of both
hold arrays of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from specop_torch.pullback import place_of

__all__ = ["cross_entropy"]

# With fewer classes the logits are small beside what a model holds, and torch's own function is as fast.
_MANY_CLASSES = 4096
# Entries whose exponentials are held at a time.
_AT_ONCE = 1 << 20


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return what `torch.nn.functional.cross_entropy` returns for the same arguments."""
    is_plain = label_smoothing == 0.0 and size_average is reduce is None and reduction in ("mean", "sum", "none")
    is_large = type(input) is Tensor and input.ndim > 1 and input.shape[1] >= _MANY_CLASSES
    # Autocast turns less precise logits into float32, and torch itself sums them up in it.
    is_precise = input.dtype in (torch.float32, torch.float64)
    is_labelled = type(target) is Tensor and target.dtype is torch.int64
    if not (is_plain and is_large and is_precise and is_labelled and target.shape == input.shape[:1] + input.shape[2:]):
        return functional.cross_entropy(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )
    counted = target != ignore_index
    labels = target.where(counted, 0)
    factors = counted.to(input.dtype) if weight is None else weight[labels].where(counted, 0)
    logits, places = input.movedim(1, -1).flatten(0, -2), labels.flatten()
    losses: Tensor = _CrossEntropy.apply(place_of(logits), *_evaluated(logits, places), places)  # type: ignore[no-untyped-call]
    losses = losses.view(labels.shape) * factors
    if reduction == "none":
        return losses
    return losses.sum() / factors.sum() if reduction == "mean" else losses.sum()


@torch.no_grad()
def _evaluated(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities, and the loss of each row."""
    at_once = max(1, _AT_ONCE // logits.shape[1])
    normalizers = torch.cat([rows.logsumexp(1) for rows in logits.split(at_once)])
    return (logits - normalizers[:, None]).exp_(), normalizers - logits.gather(1, labels[:, None])[:, 0]


class _CrossEntropy(torch.autograd.Function):
    """These losses of rows, as a function of the logits at this place."""

    generate_vmap_rule = True

    @staticmethod
    def forward(place: Tensor, probabilities: Tensor, losses: Tensor, labels: Tensor) -> Tensor:
        return losses.clone()

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Any) -> None:
        place, probabilities, _, labels = inputs
        context.save_for_backward(place, probabilities, labels)

    @staticmethod
    def backward(context: Any, slopes: Tensor) -> tuple[Tensor, None, None, None]:
        return _Gradient.apply(*context.saved_tensors, slopes[:, None]), None, None, None  # type: ignore[no-untyped-call]


class _Gradient(torch.autograd.Function):
    """Slopes times the probabilities minus one at the labels."""

    generate_vmap_rule = True

    @staticmethod
    def forward(place: Tensor, probabilities: Tensor, labels: Tensor, slopes: Tensor) -> Tensor:
        return (probabilities * slopes).scatter_add_(1, labels[:, None], -slopes)

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Any) -> None:
        context.save_for_backward(*inputs)

    @staticmethod
    def backward(context: Any, along: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        place, p, labels, slopes = context.saved_tensors
        if torch.is_grad_enabled():
            # A further derivative is wanted.
            p = _Probabilities.apply(place, p)  # type: ignore[no-untyped-call]
            mean = (p * along).sum(1, keepdim=True)
            curved = p * (along - mean) * slopes
        else:
            curved = p * along
            mean = curved.sum(1, keepdim=True)
            curved = curved.addcmul_(p, mean, value=-1.0).mul_(slopes)
        of_slopes = context.needs_input_grad[3]
        return curved, None, None, mean - along.gather(1, labels[:, None]) if of_slopes else None


class _Probabilities(torch.autograd.Function):
    """These probabilities, as a function of the logits at this place."""

    generate_vmap_rule = True

    @staticmethod
    def forward(place: Tensor, probabilities: Tensor) -> Tensor:
        return probabilities.view_as(probabilities)

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Any) -> None:
        context.save_for_backward(*inputs)

    @staticmethod
    def backward(context: Any, along: Tensor) -> tuple[Tensor, None]:
        place, p = context.saved_tensors
        if torch.is_grad_enabled():
            # A further derivative is wanted.
            p = _Probabilities.apply(place, p)  # type: ignore[no-untyped-call]
            return p * (along - (p * along).sum(1, keepdim=True)), None
        curved = p * along
        return curved.addcmul_(p, curved.sum(1, keepdim=True), value=-1.0), None
