"""Remove nine in ten weights of a network without training it again.

    python examples/prune_torch.py prune.png

A network for handwritten digits loses more and more of its weights, in small steps and without any training in
between: by magnitude, and by the optimal brain surgeon, which lets the weights that are left make up for those that
go. Prints the share of right answers on digits that were not trained on, and draws it.
"""

import copy
import sys
import warnings

import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits
from torch import nn

import specop

# Weight decay, which is not part of this loss, holds the network where its gradient is not zero. The right answers
# below tell what that costs.
warnings.filterwarnings("ignore", "the gradient has the norm", specop.errors.QuadraticModelWarning)
SPARSITIES = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98)


def main(picture: str, seeds: int = 3) -> None:
    curves = {method: torch.zeros(seeds, len(SPARSITIES) + 1) for method in ("obs", "magnitude")}
    for seed in range(seeds):
        training, testing = split(seed)
        model = train(training, seed)
        for method, curve in curves.items():
            curve[seed] = torch.tensor(accuracies(model, training, testing, method))
    print(f"right answers in %, mean of {seeds} networks, and of the worst one")
    print(f"{'zero weights':>14} {'obs':>14} {'magnitude':>16}")
    for i, sparsity in enumerate((0.0, *SPARSITIES)):
        texts = (f"{curve[:, i].mean():6.1f} ({curve[:, i].min():.1f})" for curve in curves.values())
        print(f"{100 * sparsity:12.0f} %", *(f"{text:>15}" for text in texts))
    draw(curves, picture)


def accuracies(model: nn.Module, training, testing, method: str) -> list[float]:
    """Share of right answers before pruning and at each sparsity."""
    objective = specop.objective(model, nn.functional.cross_entropy, training)
    pruned = copy.deepcopy(model)
    found, theta = [accuracy(pruned, testing)], None
    for sparsity in SPARSITIES:
        # Each call goes on from the zeros of the one before; magnitudes do not change on the way.
        steps = 3 if method == "obs" else 1
        result = specop.analysis.prune(objective, sparsity, method, steps=steps, theta=theta)
        theta = result.theta
        pruned.load_state_dict(result.parameters)
        found.append(accuracy(pruned, testing))
    return found


def split(seed: int):
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x, y = torch.tensor(pixels).float()[order] / 16, torch.tensor(labels)[order]
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def train(training, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    x, y = training
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.3)
    for _ in range(60):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model


def accuracy(model: nn.Module, testing) -> float:
    x, y = testing
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).float().mean())


def draw(curves: dict, picture: str) -> None:
    _, ax = pyplot.subplots(figsize=(7, 4), layout="constrained")
    percent = [100 * sparsity for sparsity in (0.0, *SPARSITIES)]
    for (method, curve), color in zip(curves.items(), ("#2563a8", "#d9601a"), strict=True):
        ax.plot(percent, curve.mean(0), "o-", color=color, markersize=4, label=method)
        ax.fill_between(percent, curve.amin(0), curve.amax(0), color=color, alpha=0.2, linewidth=0)
    ax.set(xlabel="weights that are zero, %", ylabel="right answers, %", title="Pruned without training in between")
    ax.legend(frameon=False)
    ax.figure.savefig(picture, dpi=120)
    print(f"saved {picture}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "prune.png")
