"""Remove whole neurons of a network in JAX, and see what the loss does beside what was expected.

    python examples/prune_jax.py

A small network learns to add waves. The optimal brain surgeon then removes single weights, and after those whole
hidden neurons: a neuron is a column of the first matrix, its bias and a row of the second one, which go together.
"""

import jax
import jax.numpy as jnp
import numpy as np

import specop

HIDDEN, DECAY = 40, 1e-4
# Where the network fits its data the gradients of samples nearly vanish, and with them the empirical Fisher matrix; the
# Gauss-Newton matrix does not.
MATRIX = {"magnitude": {}, "obs": {"matrix": "ggn"}}


def main() -> None:
    data = waves(jax.random.key(0), 400)
    params = train(data)
    objective = specop.objective(outputs, squared_error, data, params=params)
    print(f"mean squared error {float(objective.loss()):.5f}, {objective.n} parameters\n")

    scores = specop.analysis.saliency(objective, matrix="ggn")
    print("the five least significant weights, each removed alone:")
    print(*scores.measured(5), sep="\n")

    print("\nhalf of all weights, six steps:")
    for method in ("magnitude", "obs"):
        result = specop.analysis.prune(objective, 0.5, method, steps=6, **MATRIX[method])
        print(f"{method:>10}: mean squared error {result.losses[-1]:.5f}")

    print("\nfour of the forty hidden neurons, one by one:")
    for method in ("magnitude", "obs"):
        result = specop.analysis.prune(objective, 0.1, method, steps=4, groups=neurons(objective), **MATRIX[method])
        print(f"{method:>10}: mean squared error {result.losses[-1]:.5f}")
    left = np.flatnonzero(np.asarray(result.masks["b"]))
    smaller = {
        "a": result.parameters["a"][:, left],
        "b": result.parameters["b"][left],
        "c": result.parameters["c"][left],
    }
    print(
        f"as a network of {len(left)} neurons without them: {float(squared_error(outputs(smaller, data), data[1])):.5f}"
    )


def neurons(objective: specop.Objective) -> list[np.ndarray]:
    """The indices of each hidden neuron's weights in the parameter vector."""
    places = np.arange(objective.n)
    a, b, c = (places[objective.slices[name]].reshape(objective.shapes[name]) for name in objective.names)
    return [np.concatenate([a[:, i], b[i : i + 1], c[i]]) for i in range(HIDDEN)]


def outputs(params, batch):
    return jnp.tanh(batch[0] @ params["a"] + params["b"]) @ params["c"]


def squared_error(z, y):
    return jnp.mean((z - y) ** 2)


def waves(key, count: int):
    x = jax.random.uniform(key, (count, 2), minval=-2, maxval=2)
    return x, jnp.stack([jnp.sin(2 * x[:, 0]) + x[:, 1], jnp.cos(x[:, 0] + x[:, 1])], axis=1)


def train(data):
    keys = jax.random.split(jax.random.key(1), 3)
    params = {
        "a": jax.random.normal(keys[0], (2, HIDDEN)),
        "b": jax.random.normal(keys[1], (HIDDEN,)),
        "c": jax.random.normal(keys[2], (HIDDEN, 2)) / HIDDEN**0.5,
    }

    def penalized(params, decay):
        return squared_error(outputs(params, data), data[1]) + decay * sum(jnp.sum(x**2) for x in params.values())

    # The penalty spreads the work over all neurons. It ends before the training does, so that the model is at a minimum
    # of the loss itself, which is what saliencies assume.
    def step(carry, decay):
        params, speed = carry
        speed = jax.tree.map(lambda v, g: 0.95 * v - 0.02 * g, speed, jax.grad(penalized)(params, decay))
        return (jax.tree.map(jnp.add, params, speed), speed), None

    decays = DECAY * (jnp.arange(20_000) < 15_000)
    start = params, jax.tree.map(jnp.zeros_like, params)
    (params, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, decays))(start)
    return params


if __name__ == "__main__":
    main()
