"""What do the data say about the weights of a Wide & Deep recommender, and which weights do they say nothing about?

    python examples/wide_deep.py

A linear model of categories and pairs of categories stands beside a perceptron on embeddings; both learn who earns
more than 50,000 dollars in the Adult census. The Gauss-Newton matrix of the loss, which is its Fisher information,
answers three questions: which embedding rows were never seen (theirs are zero), how many weights of the linear part
the data determine (its rank), and how strongly the two parts compete to explain the same thing (their coupling).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import data
import specop

try:
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import binary_cross_entropy_with_logits
except ImportError as error:
    data.missing(error)


class Answer(NamedTuple):
    """What was found."""

    model: nn.Module
    objective: specop.Objective
    people: data.Census
    """Those whose mean loss is looked at."""
    unseen: np.ndarray
    """Codes whose embedding has only zero rows in the matrix."""
    rank: specop.results.RankResult
    """Of the linear part."""
    wide: specop.results.EigenResult
    deep: specop.results.EigenResult
    coupling: specop.results.NormResult
    losses: tuple[float, float]
    """Before and after training."""


class WideAndDeep(nn.Module):
    """Logits of (codes, numbers)."""

    def __init__(self, codes: int, columns: int, numbers: int, width: int, hidden: int) -> None:
        super().__init__()
        self.wide = nn.Embedding(codes, 1)
        nn.init.zeros_(self.wide.weight)
        self.deep = nn.ModuleDict(
            {
                "embedding": nn.Embedding(codes, width),
                "perceptron": nn.Sequential(
                    nn.Linear(columns * width + numbers, hidden), nn.Tanh(), nn.Linear(hidden, 1)
                ),
            }
        )

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        codes, numbers = x
        features = torch.cat([self.deep["embedding"](codes).flatten(1), numbers], dim=1)
        return (self.wide(codes).sum(1) + self.deep["perceptron"](features)).squeeze(1)


def train(model: nn.Module, codes: Tensor, numbers: Tensor, labels: Tensor, epochs: int) -> None:
    """Minimize the cross-entropy."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(128):
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(model((codes[batch], numbers[batch])), labels[batch]).backward()
            optimizer.step()


def analyse(quick: bool) -> Answer:
    """Train the model and look at the parts of its Gauss-Newton matrix."""
    torch.manual_seed(0)
    people = data.census(512 if quick else 16000)
    # In single precision eigenvalues below 3e-4 of the largest drown in rounding; counting needs double.
    codes, numbers, labels = (torch.from_numpy(array) for array in people[:3])
    numbers, labels = numbers.double(), labels.double()
    width, hidden = (2, 8) if quick else (8, 64)
    model = WideAndDeep(len(people.names), codes.shape[1], numbers.shape[1], width, hidden).double()

    seen = 128 if quick else 2000
    batch = (codes[:seen], numbers[:seen]), labels[:seen]
    objective = specop.objective(model, binary_cross_entropy_with_logits, batch)
    before = float(objective.loss())
    train(model, codes, numbers, labels, epochs=2 if quick else 3)
    G = objective.ggn()

    # A product with a random vector is zero where a row is zero, and nowhere else.
    image = objective.unflatten(G @ torch.randn(objective.n, dtype=torch.float64))
    unseen = (image["deep.embedding.weight"] == 0).all(1).nonzero().flatten().numpy()

    wide, deep = objective.restrict("wide").ggn(), objective.restrict("deep").ggn()
    return Answer(
        model,
        objective,
        data.Census(people.codes[:seen], people.numbers[:seen], people.labels[:seen], people.names),
        unseen,
        specop.rank(wide),
        specop.eigsh(wide, k=1),
        specop.eigsh(deep, k=1),
        specop.spectral_norm(G.coupling("wide", "deep")),
        (before, float(objective.loss())),
    )


def main(arguments: list[str] | None = None) -> None:
    """Print the answer."""
    found = analyse(data.is_quick(__doc__, arguments))
    names = found.people.names
    print(found.objective)
    print("loss {:.3f}, after training {:.3f}".format(*found.losses))
    print(f"\n{len(found.unseen)} of {len(names)} categories never occur among {len(found.people.labels)} people, e.g.")
    for code in found.unseen[:: max(1, len(found.unseen) // 4)]:
        print(f"    {names[code]}")
    print(f"\nlinear part: {found.rank}")
    print(f"\nlargest eigenvalue of the wide part\n{found.wide}\nof the deep part\n{found.deep}")
    both = float(np.sqrt(found.wide.eigenvalues[0] * found.deep.eigenvalues[0]))
    print(f"\ncoupling of both: {found.coupling}")
    print(f"which is {found.coupling.estimate / both:.2f} of the most that there can be, sqrt of their product")


if __name__ == "__main__":
    main()
