"""What torch's criteria and models with a loss of their own divide by: terms, or the sum of their weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from specop.objectives.refusals import no_mean
from specop_torch.structures import TREES

__all__ = ["check_mean", "normalizer", "terms_of"]

# Those that average over classes' weights at the labels, and those that average over all entries of the target.
_LABELS = {functional.cross_entropy, functional.nll_loss}
# Of a class derived from them that has a function of its own nothing is known.
_LABEL_LOSSES = {nn.CrossEntropyLoss.forward, nn.NLLLoss.forward}
_ENTRIES = {
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
    functional.soft_margin_loss,
    functional.binary_cross_entropy,
    functional.binary_cross_entropy_with_logits,
}
_ENTRY_LOSSES = {
    nn.MSELoss.forward,
    nn.L1Loss.forward,
    nn.SmoothL1Loss.forward,
    nn.HuberLoss.forward,
    nn.SoftMarginLoss.forward,
    nn.BCELoss.forward,
    nn.BCEWithLogitsLoss.forward,
}


# That of the Kullback-Leibler divergence over samples, where "mean" is over entries.
_MEANS = ("mean", "batchmean")


def check_mean(criterion: Any) -> None:
    """Raise InvalidInputError for a criterion that says of itself that it is no mean over the batch."""
    said = criterion.keywords if isinstance(criterion, functools.partial) else {}
    reduction = said.get("reduction", getattr(criterion, "reduction", "mean"))
    if reduction not in _MEANS:
        raise no_mean(reduction, "mean")


def normalizer(criterion: Any) -> Callable[[Any], float] | None:
    """Return what a criterion of torch divides its sum by, as a function of the target.

    Parameters
    ----------
    criterion : callable
        A loss of `torch.nn` or a function of `torch.nn.functional`, possibly a `functools.partial` of one with keyword
        arguments.

    Returns
    -------
    callable or None
        None for a criterion of which that is not known.
    """
    own = getattr(type(criterion), "forward", None)
    if own in _LABEL_LOSSES:
        return functools.partial(_counted, weight=criterion.weight, ignore_index=criterion.ignore_index)
    if own in _ENTRY_LOSSES:
        return _entries
    options: Mapping[str, Any] = {}
    if isinstance(criterion, functools.partial) and not criterion.args:
        criterion, options = criterion.func, criterion.keywords
    if criterion in _LABELS:
        return functools.partial(_counted, weight=options.get("weight"), ignore_index=options.get("ignore_index", -100))
    return _entries if criterion in _ENTRIES else None


# Losses of Hugging Face that average over labels that are not -100, by the name that a model gives its loss; those of
# causal language models are shifted, so that the first label of a sequence belongs to no output.
_SHIFTED = {"ForCausalLM"}
_UNSHIFTED = {"ForMaskedLM", "ForTokenClassification"}


def terms_of(model: Any) -> Callable[[Any], float] | None:
    """Return what a model that returns its loss divides it by, as a function of a batch.

    Parameters
    ----------
    model : object
        One of Hugging Face's tells by ``loss_type``; of one in an adapter of PEFT, what is adapted does.

    Returns
    -------
    callable or None
        None for a model of which that is not known: batches count by their samples.
    """
    adapted = _adapted(model)
    # GPT2LMHeadModel and its like have none, and take the loss of causal language models.
    default = "ForCausalLM" if type(adapted).__name__.endswith("LMHeadModel") else None
    loss_type = getattr(adapted, "loss_type", None) or default
    if loss_type not in _SHIFTED | _UNSHIFTED:
        return None
    return functools.partial(_labelled, first=int(loss_type in _SHIFTED))


def _adapted(model: Any) -> Any:
    """Return the model that an adapter of PEFT passes batches on to; None where it puts tokens of its own before them.

    Then the first label of a sequence counts too.
    """
    if not callable(getattr(model, "get_base_model", None)):
        return model
    settings: Any = getattr(model, "active_peft_config", None)
    adds_tokens = getattr(settings, "is_prompt_learning", False) and settings.peft_type != "PREFIX_TUNING"
    return None if adds_tokens else model.get_base_model()


def _labelled(batch: Any, first: int) -> float:
    if not isinstance(batch, Mapping) or batch.get("labels") is None:
        # The first call says that there is no loss.
        return 1.0
    return float((_target(batch["labels"])[..., first:] != -100).sum())


def _counted(given: Any, weight: Tensor | None, ignore_index: int) -> float:
    target = _target(given)
    if target.is_floating_point():
        # Probabilities of classes, in the second dimension: torch divides by the number of terms, whatever the weights.
        return float(target.numel() / (target.shape[1] if target.ndim > 1 else target.shape[0]))
    labels = target[target != ignore_index]
    return float(labels.numel() if weight is None else weight.double()[labels.to(weight.device)].sum())


def _entries(given: Any) -> float:
    return float(_target(given).numel())


def _target(given: Any) -> Tensor:
    found = TREES.as_array(given)
    return torch.as_tensor(given) if found is None else found
