"""Which of the matrices that are called Fisher resembles the Hessian?

    python examples/keras_cnn.py

The exact Fisher matrix, its Monte Carlo estimate with labels drawn from the model, and the empirical one with the
labels of the data are used for each other in optimizers and pruning; Kunstner et al. (Limitations of the empirical
Fisher approximation for natural gradient descent, NeurIPS 2019) show that the last one is another thing. The script
trains a Keras CNN with batch normalization on Fashion-MNIST and measures the three against its Hessian.
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


class Comparison(NamedTuple):
    """A matrix beside the Hessian."""

    eigen: specop.results.EigenResult
    trace: specop.results.TraceResult
    distance: specop.results.NormResult
    """Frobenius norm of its difference from the Hessian."""
    overlap: float
    """Mean squared cosine between the leading eigenspaces."""


class Answer(NamedTuple):
    """What was found."""

    model: keras.Model
    images: np.ndarray
    objective: specop.Objective
    norm: specop.results.NormResult
    """Of the Hessian."""
    matrices: dict[str, Comparison]
    losses: tuple[float, float]
    """Before and after training."""


def network(width: int) -> keras.Model:
    """Return two convolutions with batch normalization, and a dense layer."""
    layers: list[keras.Layer] = [keras.Input((28, 28, 1))]
    for channels in (width, 2 * width):
        layers += [
            keras.layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])


def analyse(quick: bool) -> Answer:
    """Train the network and compare its curvature matrices."""
    keras.utils.set_random_seed(0)
    images, labels = data.images(256 if quick else 8192)
    images = images[..., None]
    model = network(2 if quick else 8)
    criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    seen = 64 if quick else 1024
    objective = specop.objective(model, criterion, (images[:seen], labels[:seen]))
    before = float(objective.loss())
    model.compile(keras.optimizers.Adam(3e-3), criterion)
    model.fit(images, labels, batch_size=64, epochs=2 if quick else 4, verbose=0)

    H = objective.hessian()
    k = 3 if quick else 9
    of_hessian = specop.eigsh(H, k=k, which="LA")
    found = {"Hessian": H}
    found |= {f"{kind} Fisher": objective.fisher(kind=kind) for kind in ("exact", "mc", "empirical")}
    matrices = {}
    for name, A in found.items():
        eigen = of_hessian if A is H else specop.eigsh(A, k=k, which="LA")
        cosines = np.asarray(eigen.rows) @ np.asarray(of_hessian.rows).T
        difference = specop.frobenius_norm(A - H, rtol=0.1)
        matrices[name] = Comparison(
            eigen, specop.trace(A, deflate=eigen, rtol=0.05), difference, float((cosines**2).sum() / k)
        )
    norm = specop.frobenius_norm(H, rtol=0.05)
    return Answer(model, images[:seen], objective, norm, matrices, (before, float(objective.loss())))


def main(arguments: list[str] | None = None) -> None:
    """Print the answer."""
    found = analyse(data.is_quick(__doc__, arguments))
    print(found.objective)
    print("loss {:.3f}, after training {:.3f}".format(*found.losses))
    print(f"Hessian: {found.norm}\n")
    print(f"{'':17} {'largest eigenvalue':>26} {'trace, 95 % interval':>30} {'distance':>18} {'overlap':>8}")
    for name, (eigen, trace, distance, overlap) in found.matrices.items():
        largest = f"{eigen.eigenvalues[-1]:.5g} (error <= {eigen.bounds[-1]:.1g})"
        interval = "{:.4g} ({:.4g} to {:.4g})".format(trace.estimate, *trace.interval)
        relative = f"{distance.estimate:.3g} +- {distance.standard_error:.1g}"
        print(f"{name:17} {largest:>26} {interval:>30} {relative:>18} {overlap:8.3f}")
    print(
        "\ndistance: Frobenius norm of the difference from the Hessian; overlap: of the leading eigenspaces, 1 is all"
    )


if __name__ == "__main__":
    main()
