"""Which weight decay would a transformer's own evidence choose, and how many of its weights do the data determine?

    python examples/keras_transformer.py

With a Gaussian prior of precision d on all n weights, Laplace's approximation of the log evidence of N characters is

    -N loss - d |theta|^2 / 2 + (n log d - log det(N G + d I)) / 2

with the Gauss-Newton matrix G of the mean loss (MacKay, A practical Bayesian framework for
backpropagation networks, 1992).
One spectral density of G gives the determinant, and the number of well-determined weights, for every d at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import data
import specop

try:
    import keras
except ImportError as error:
    data.missing(error)

PRECISIONS = np.logspace(-2, 4, 13)


class Evidence(NamedTuple):
    """Of one prior precision."""

    precision: float
    logarithm: float
    interval: tuple[float, float]
    determined: specop.results.Estimate
    """The share of the weights that the data determine."""


class Answer(NamedTuple):
    """What was found."""

    objective: specop.Objective
    density: specop.results.SpectralDensity
    evidence: list[Evidence]
    losses: tuple[float, float]
    """Before and after training."""


class Positions(keras.layers.Layer):
    """Adds a trained vector for each position."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer="zeros", name="table")

    def call(self, hidden: object) -> object:
        return hidden + self.table


def transformer(length: int, width: int, heads: int, depth: int) -> keras.Model:
    """Return characters to logits of the next ones."""
    codes = keras.Input((length,), dtype="int32")
    hidden = Positions()(keras.layers.Embedding(data.VOCABULARY, width)(codes))
    for _ in range(depth):
        inner = keras.layers.LayerNormalization()(hidden)
        hidden += keras.layers.MultiHeadAttention(heads, width // heads)(inner, inner, use_causal_mask=True)
        inner = keras.layers.Dense(4 * width, activation="gelu")(keras.layers.LayerNormalization()(hidden))
        hidden += keras.layers.Dense(width)(inner)
    return keras.Model(codes, keras.layers.Dense(data.VOCABULARY)(keras.layers.LayerNormalization()(hidden)))


def evidence_of(
    precision: float, density: specop.results.SpectralDensity, terms: int, loss: float, square: float
) -> Evidence:
    """Return the log evidence for one prior precision."""
    n = density.n
    # Rounding may leave an eigenvalue of zero a little below it.
    ratio = lambda x: terms * np.maximum(x, 0) / precision  # noqa: E731
    volume = density.integrate(lambda x: np.log1p(ratio(x)))
    determined = density.integrate(lambda x: ratio(x) / (1 + ratio(x)))
    fit = -terms * loss - 0.5 * precision * square
    low, high = (fit - 0.5 * n * end for end in volume.interval[::-1])
    return Evidence(precision, fit - 0.5 * n * volume.estimate, (low, high), determined)


def analyse(quick: bool) -> Answer:
    """Train the model and compute the evidence for many priors."""
    keras.utils.set_random_seed(0)
    length = 16 if quick else 32
    inputs, targets = data.characters(64 if quick else 2048, length)
    model = transformer(length, 4 if quick else 32, 2 if quick else 4, 1 if quick else 2)
    criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    seen = 32 if quick else 256
    objective = specop.objective(model, criterion, (inputs[:seen], targets[:seen]))
    before = float(objective.loss())
    model.compile(keras.optimizers.Adam(3e-3), criterion)
    model.fit(inputs, targets, batch_size=32, epochs=4, verbose=0)

    loss, theta = float(objective.loss()), np.asarray(objective.theta, dtype=float)
    density = specop.spectral_density(objective.ggn(), steps=60, probes=4)
    evidence = [evidence_of(one, density, seen * length, loss, float(theta @ theta)) for one in PRECISIONS]
    return Answer(objective, density, evidence, (before, loss))


def main(arguments: list[str] | None = None) -> None:
    """Print the answer."""
    found = analyse(data.is_quick(__doc__, arguments))
    print(found.objective)
    print("loss {:.3f}, after training {:.3f}".format(*found.losses))
    print(found.density)
    best = max(found.evidence, key=lambda one: one.logarithm)
    print(f"\n{'prior precision':>15} {'log evidence, 95 % interval':>36} {'weights determined':>28}")
    for one in found.evidence:
        interval = "{:.0f} ({:.0f} to {:.0f})".format(one.logarithm, *one.interval)
        share, error = one.determined.estimate, one.determined.standard_error
        weights = f"{found.density.n * share:.0f} +- {found.density.n * error:.1g}"
        print(f"{one.precision:15.3g} {interval:>36} {weights:>28} {'<- best' if one is best else ''}")


if __name__ == "__main__":
    main()
