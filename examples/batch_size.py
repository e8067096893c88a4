"""Which batch size does the noise of the gradient advise, and does training keep to it?

    python examples/batch_size.py

With noise scale s, batches of B samples should take 1 + s / B times as many steps as exact gradients do, each with a
rate that is 1 + s / B times smaller (McCandlish et al., arXiv:1812.06162). The script measures s where training begins
and on the way of exact gradients by `specop.landscape.noise`, predicts the steps to a given loss for five batch sizes
from its first value, and trains: with the predicted rate, and with a quarter to four times that, of which it tells the
best.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import data
import specop

try:
    import torch
    from sklearn.datasets import load_digits
    from torch import Tensor, nn
    from torch.nn.functional import cross_entropy
except ImportError as error:
    data.missing(error)


class Row(NamedTuple):
    """Steps to the loss with one batch size."""

    batch_size: int
    rate: float
    predicted: float
    """By the noise scale at the start."""
    by_mean: float
    """By the mean of the noise scales on the way."""
    steps: dict[float, float]
    """Means over seeds at multiples of the rate; infinite where the loss was not reached."""


class Answer(NamedTuple):
    """What was found, and where."""

    noises: list[specop.results.NoiseResult]
    """On the way of the training with exact gradients."""
    exact_steps: int
    exact_rate: float
    loss: float
    rows: list[Row]
    batch: tuple[Tensor, Tensor]
    """All data."""


def network() -> nn.Sequential:
    """Return a perceptron, the same in each call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


def steps_to(
    loss: float, rate: float, batch: tuple[Tensor, Tensor], size: int | None, seed: int, most: int
) -> tuple[float, list[Tensor]]:
    """Return the number of steps to a loss of all data, and the parameters before each of a few steps on the way.

    Batches are drawn with replacement; without a size steps are those of exact gradients.
    """
    model, draws = network(), torch.Generator().manual_seed(seed)
    inputs, labels = batch
    path, every = [], 1 if size is None else max(1, most // 400)
    for step in range(most + 1):
        if step % every == 0:
            with torch.no_grad():
                now = float(cross_entropy(model(inputs), labels))
            if not now < 1e3:
                break
            if now <= loss:
                return float(step), path
            path.append(nn.utils.parameters_to_vector(model.parameters()).detach())
        chosen = slice(None) if size is None else torch.randint(len(labels), (size,), generator=draws)
        slopes = torch.autograd.grad(cross_entropy(model(inputs[chosen]), labels[chosen]), list(model.parameters()))
        with torch.no_grad():
            for weight, slope in zip(model.parameters(), slopes, strict=True):
                weight -= rate * slope
    return float("inf"), path


def analyse(quick: bool) -> Answer:
    """Measure the noise, predict, and train."""
    # The matrices are too small for several threads.
    torch.set_num_threads(1)
    pixels, classes = load_digits(return_X_y=True)
    seen = 200 if quick else 1500
    inputs = torch.tensor(pixels[:seen], dtype=torch.float32) / 16
    batch = inputs - inputs.mean(0), torch.tensor(classes[:seen])
    loss, seeds = (1.5, 1) if quick else (0.3, 3)

    # The best of a few rates for exact gradients.
    tried = [(*steps_to(loss, rate, batch, None, 0, 400), rate) for rate in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)]
    exact_steps, path, exact_rate = min(tried, key=lambda found: found[0])
    objective = specop.objective(network(), cross_entropy, batch)
    places = np.linspace(0, len(path) - 1, 3 if quick else 6).astype(int)
    noises = [specop.landscape.noise(objective, population=False, theta=path[place]) for place in places]

    rows = []
    for size in (8, 32) if quick else (4, 16, 64, 256, 1024):
        factor = noises[0].steps(size)
        predicted, rate = factor * exact_steps, exact_rate / factor
        known = [found.steps(size) for found in noises if found.batch_size is not None]
        most = int(8 * predicted) + 20
        steps = {
            share: float(np.mean([steps_to(loss, share * rate, batch, size, seed, most)[0] for seed in range(seeds)]))
            for share in (0.25, 0.5, 1.0, 2.0, 4.0)
        }
        rows.append(Row(size, rate, predicted, exact_steps * float(np.mean(known)), steps))
    return Answer(noises, int(exact_steps), exact_rate, loss, rows, batch)


def main(arguments: list[str] | None = None) -> None:
    """Print the prediction beside what training took."""
    found = analyse(data.is_quick(__doc__, arguments))
    best = f"at the best rate {found.exact_rate:g}"
    print(f"exact gradients: {found.exact_steps} steps to a loss of {found.loss:g}, {best}")
    scales = [one.scale.estimate for one in found.noises if one.scale is not None]
    print(f"noise scale on the way: {', '.join(f'{scale:.4g}' for scale in scales)} samples\n")
    heading = f"{'batch':>6} {'rate':>8} {'predicted':>10} {'found':>7} {'ratio':>6}"
    print(f"{heading} {'fewest':>7} {'at':>10} {'by mean':>12}")
    for row in found.rows:
        share = min(row.steps, key=row.steps.__getitem__)
        texts = f"{row.predicted:10.0f} {row.steps[1.0]:7.0f} {row.steps[1.0] / row.predicted:6.2f}"
        print(f"{row.batch_size:6} {row.rate:8.3g} {texts} {row.steps[share]:7.0f} {share:5g} rate {row.by_mean:12.0f}")
    print()
    print(found.noises[0])


if __name__ == "__main__":
    main()
