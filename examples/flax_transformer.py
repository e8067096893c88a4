"""Which layers of a transformer can be quantized, and does the Hessian know it beforehand?

    python examples/flax_transformer.py

Rounding the weights of a layer moves them by d, and the loss by about g'd + d'Hd / 2, with the gradient g and one
product with the Hessian H. If rounding errors were independent of each other, d'Hd would be |d|^2 times the mean
eigenvalue of the layer's block, which is what methods that rank layers by their traces assume (Dong et al., HAWQ-V2,
NeurIPS 2020). The script trains a causal transformer of flax.nnx on text and compares both with what rounding really
does to the loss.
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

BITS = 4
Batch = tuple[jax.Array, jax.Array]


class Layer(NamedTuple):
    """What rounding the weights of one layer does to the loss."""

    name: str
    parameters: int
    by_trace: tuple[float, float]
    """Interval of the increase if rounding errors were independent."""
    predicted: float
    """By the gradient and a product with the Hessian."""
    actual: float


class Answer(NamedTuple):
    """What was found."""

    objective: specop.Objective
    layers: list[Layer]
    losses: tuple[float, float]
    """Before and after training."""


class Block(nnx.Module):
    """Attention, then a perceptron."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        hidden = hidden + self.attention(self.norm1(hidden), mask=mask)
        return hidden + self.down(nnx.gelu(self.up(self.norm2(hidden))))


class Transformer(nnx.Module):
    """Characters to logits of the next ones."""

    def __init__(self, length: int, width: int, heads: int, depth: int, rngs: nnx.Rngs) -> None:
        self.tokens = nnx.Embed(data.VOCABULARY, width, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((length, width), jnp.float32))
        self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, data.VOCABULARY, rngs=rngs)

    def __call__(self, codes: jax.Array) -> jax.Array:
        hidden = self.tokens(codes) + self.positions
        mask = nnx.make_causal_mask(codes)
        for block in self.blocks:
            hidden = block(hidden, mask)
        return self.head(self.norm(hidden))


def criterion(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


@nnx.jit
def step(model: Transformer, optimizer: nnx.Optimizer, batch: Batch) -> None:
    """Take one step."""
    gradient = nnx.grad(lambda model: criterion(model(batch[0]), batch[1]))(model)
    optimizer.update(model, gradient)


def train(model: Transformer, batch: Batch, steps: int) -> None:
    """Minimize the cross-entropy with a learning rate that goes to zero."""
    optimizer = nnx.Optimizer(model, optax.adam(optax.cosine_decay_schedule(3e-3, steps)), wrt=nnx.Param)
    size = min(32, len(batch[0]))
    for i in range(steps):
        start = i * size % (len(batch[0]) - size + 1)
        step(model, optimizer, (batch[0][start : start + size], batch[1][start : start + size]))


def rounded(weights: jax.Array) -> jax.Array:
    """Return weights on an even grid of 2^BITS - 1 values, the largest of them kept."""
    unit = jnp.abs(weights).max() / (2 ** (BITS - 1) - 1)
    return unit * jnp.round(weights / unit)


def quantize(objective: specop.Objective, name: str) -> Layer:
    """Predict what rounding a layer's weights does, and do it."""
    theta, part = objective.theta, objective.restrict(f"{name}.*")
    current = objective.unflatten(theta)
    moved = {key: rounded(one) if key in part.names and one.ndim > 1 else one for key, one in current.items()}
    d = objective.flatten(moved) - theta
    predicted = objective.gradient() @ d + 0.5 * d @ (objective.hessian() @ d)
    actual = objective.loss(theta + d) - objective.loss()
    mean = [0.5 * float(d @ d) / part.n * end for end in specop.trace(part.hessian(), rtol=0.1).interval]
    return Layer(name, part.n, (mean[0], mean[1]), float(predicted), float(actual))


def analyse(quick: bool) -> Answer:
    """Train the model and round its layers, one at a time."""
    length, depth = (16, 1) if quick else (64, 2)
    inputs, targets = map(jnp.asarray, data.characters(32 if quick else 1024, length))
    model = Transformer(length, 8 if quick else 64, 2 if quick else 4, depth, nnx.Rngs(0))
    seen = 8 if quick else 64
    objective = specop.objective(model, criterion, (inputs[:seen], targets[:seen]))
    before = float(objective.loss())
    train(model, (inputs, targets), 40 if quick else 200)
    inside = [f"blocks.{i}.{name}" for i in range(depth) for name in ("attention", "up", "down")]
    names = ["tokens", "head"] if quick else ["tokens", *inside, "head"]
    layers = [quantize(objective, name) for name in names]
    return Answer(objective, layers, (before, float(objective.loss())))


def main(arguments: list[str] | None = None) -> None:
    """Print the answer."""
    found = analyse(data.is_quick(__doc__, arguments))
    print(found.objective)
    print("loss {:.3f}, after training {:.3f}\n".format(*found.losses))
    print(f"increase of the loss when a layer's weights are rounded to {BITS} bits")
    print(f"{'layer':20} {'parameters':>10} {'by the trace, 95 % interval':>30} {'by a product':>13} {'actual':>10}")
    for layer in sorted(found.layers, key=lambda one: one.predicted):
        interval = "{:.3g} to {:.3g}".format(*layer.by_trace)
        print(f"{layer.name:20} {layer.parameters:10,} {interval:>30} {layer.predicted:13.3g} {layer.actual:10.3g}")


if __name__ == "__main__":
    main()
