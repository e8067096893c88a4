"""Does gradient descent stop at the edge of stability?

    python examples/flax_cnn.py

With a fixed learning rate, full-batch gradient descent sharpens the loss until the largest eigenvalue of the Hessian
reaches 2 / rate, and then hovers there (Cohen et al., Gradient descent on neural networks typically occurs at the edge
of stability, ICLR 2021). The script follows a flax.nnx network through training. Each analysis begins with the
eigenvectors of the one before, which saves products, and the trace shows what the eigenvalue alone does not.
"""

from __future__ import annotations

from typing import NamedTuple

import data
import specop

try:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx
except ImportError as error:
    data.missing(error)

Batch = tuple[jax.Array, jax.Array]


class Moment(NamedTuple):
    """The curvature after some steps."""

    steps: int
    loss: float
    eigen: specop.results.EigenResult
    trace: specop.results.TraceResult


class Answer(NamedTuple):
    """What was found along the way."""

    model: Network
    batch: Batch
    objective: specop.Objective
    rate: float
    moments: list[Moment]


class Network(nnx.Module):
    """Two convolutions and two dense layers."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, width, (3, 3), strides=2, rngs=rngs)
        self.conv2 = nnx.Conv(width, 2 * width, (3, 3), strides=2, rngs=rngs)
        self.hidden = nnx.Linear(2 * width * 7 * 7, 4 * width, rngs=rngs)
        self.head = nnx.Linear(4 * width, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        features = jnp.tanh(self.conv2(jnp.tanh(self.conv1(images))))
        return self.head(jnp.tanh(self.hidden(features.reshape(len(images), -1))))


def criterion(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Return half the squared error of a sample, on average."""
    return 0.5 * jnp.mean(jnp.sum((outputs - jax.nn.one_hot(labels, 10)) ** 2, axis=1))


@nnx.jit
def descend(model: Network, optimizer: nnx.Optimizer, batch: Batch) -> None:
    """Take one step."""
    gradient = nnx.grad(lambda model: criterion(model(batch[0]), batch[1]))(model)
    optimizer.update(model, gradient)


def analyse(quick: bool) -> Answer:
    """Train the network, and look at its Hessian now and then."""
    images, labels = data.images(64 if quick else 512)
    batch = jnp.asarray(images[..., None]), jnp.asarray(labels)
    model = Network(2 if quick else 8, nnx.Rngs(0))
    rate, pieces, length = (0.05, 2, 5) if quick else (0.05, 10, 60)
    optimizer = nnx.Optimizer(model, optax.sgd(rate), wrt=nnx.Param)

    # An objective follows its model; each operator belongs to the point at which it was made.
    objective = specop.objective(model, criterion, batch)
    moments: list[Moment] = []
    eigen = None
    for piece in range(pieces + 1):
        H = objective.hessian()
        eigen = specop.eigsh(H, k=3, which="LA", v0=eigen)
        trace = specop.trace(H, deflate=eigen, rtol=0.1)
        moments.append(Moment(piece * length, float(objective.loss()), eigen, trace))
        for _ in range(length if piece < pieces else 0):
            descend(model, optimizer, batch)
    return Answer(model, batch, objective, rate, moments)


def main(arguments: list[str] | None = None) -> None:
    """Print the answer."""
    found = analyse(data.is_quick(__doc__, arguments))
    print(f"{found.objective}, 2 / rate = {2 / found.rate:g}\n")
    print(f"{'steps':>6} {'loss':>8} {'largest eigenvalue':>26} {'products':>9} {'trace, 95 % interval':>30}")
    for steps, loss, eigen, trace in found.moments:
        largest = f"{eigen.eigenvalues[-1]:.5g} (error <= {eigen.bounds[-1]:.1g})"
        interval = "{:.4g} ({:.4g} to {:.4g})".format(trace.estimate, *trace.interval)
        print(f"{steps:6} {loss:8.4f} {largest:>26} {eigen.matvecs:9} {interval:>30}")


if __name__ == "__main__":
    main()
