"""Which part of a language model is sharp?

    python examples/transformer_text.py

A causal transformer learns the manual that every Python carries, character by character. The output layer shares its
weights with the embedding, and paragraphs of different lengths are padded. The script prints the largest eigenvalue
and the trace of the whole Hessian, then those of the block that belongs to each part of the model.
"""

from __future__ import annotations

from typing import NamedTuple

import data
import specop

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as error:
    data.missing(error)

PARTS = ("tokens", "positions", "blocks.*.attention.*", "blocks.*.perceptron.*", ["*norm*"])
"""The model in five parts, each a pattern of names or a list of such."""


class Answer(NamedTuple):
    """Eigenvalue and trace of the whole Hessian and of its blocks, in the order of `PARTS`."""

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]
    objective: specop.Objective
    whole: tuple[specop.results.EigenResult, specop.results.TraceResult]
    blocks: list[tuple[specop.results.EigenResult, specop.results.TraceResult]]
    losses: tuple[float, float]
    """Before and after training."""


class Block(nn.Module):
    """Attention, then a perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width)})
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        q, k, v = self.attention["qkv"](self.norm1(hidden)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden = hidden + self.attention["out"](mixed.transpose(1, 2).flatten(2))
        return hidden + self.perceptron(self.norm2(hidden))


class Transformer(nn.Module):
    """Characters to logits of the next ones."""

    def __init__(self, length: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(data.VOCABULARY, width)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, data.VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, codes: Tensor) -> Tensor:
        hidden = self.tokens(codes) + self.positions
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


def criterion(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over the characters that are no padding, whose target is -100."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def count_tokens(batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return how many terms the mean of a batch has."""
    return (batch[1] != -100).sum()


def train(model: nn.Module, inputs: Tensor, targets: Tensor, epochs: int) -> None:
    """Minimize the cross-entropy with a learning rate that goes to zero."""
    batches = [batch for _ in range(epochs) for batch in torch.randperm(len(inputs)).split(32)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for batch in batches:
        optimizer.zero_grad()
        criterion(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
        schedule.step()


def curvature(objective: specop.Objective) -> tuple[specop.results.EigenResult, specop.results.TraceResult]:
    """Return the largest eigenvalue and the trace of a Hessian."""
    H = objective.hessian()
    eigen = specop.eigsh(H, k=1, which="LA")
    return eigen, specop.trace(H, deflate=eigen, rtol=0.1)


def analyse(quick: bool) -> Answer:
    """Train the model and compare the blocks of its Hessian."""
    torch.manual_seed(0)
    length = 16 if quick else 64
    inputs, targets = map(torch.from_numpy, data.paragraphs(64 if quick else 512, length))
    model = Transformer(length, width=8 if quick else 64, heads=2 if quick else 4, depth=2)

    # Batches differ in their number of characters, and the loss is the mean over characters: `weight` counts them.
    # Tied weights are one parameter, with one name.
    batches = list(zip(inputs[:128].split(32), targets[:128].split(32), strict=True))
    objective = specop.objective(model, criterion, batches, weight=count_tokens, likelihood="categorical")
    before = float(objective.loss())
    train(model, inputs, targets, epochs=4 if quick else 12)
    losses = before, float(objective.loss())
    blocks = [curvature(objective.restrict(part)) for part in PARTS]
    return Answer(model, batches, objective, curvature(objective), blocks, losses)


def main(arguments: list[str] | None = None) -> None:
    """Print the answer."""
    found = analyse(data.is_quick(__doc__, arguments))
    print(found.objective)
    print("loss {:.3f}, after training {:.3f}\n".format(*found.losses))
    print(f"{'part':24} {'parameters':>10} {'largest eigenvalue':>28} {'trace, 95 % interval':>32}")
    parts = ["everything", *(part if isinstance(part, str) else ", ".join(part) for part in PARTS)]
    for part, (eigen, trace) in zip(parts, [found.whole, *found.blocks], strict=True):
        largest = f"{eigen.eigenvalues[0]:.6g} (error <= {eigen.bounds[0]:.1g})"
        interval = "{:.4g} ({:.4g} to {:.4g})".format(trace.estimate, *trace.interval)
        print(f"{part:24} {eigen.rows.shape[1]:10,} {largest:>28} {interval:>32}")


if __name__ == "__main__":
    main()
