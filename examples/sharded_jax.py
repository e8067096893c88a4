"""The curvature of a model in JAX whose data, vectors and parameters are spread over several devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python examples/sharded_jax.py

Four virtual devices of a processor stand for four GPUs, where the variable is left out. Nothing is said to specop:
arrays know where they are. First each device has all parameters and a part of the data, then a part of the parameters
too.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import specop

SAMPLES, INPUTS, HIDDEN = 64, 6, 16


def main() -> dict[str, specop.results.EigenResult]:
    mesh = jax.make_mesh((jax.device_count(),), ("devices",), axis_types=(AxisType.Auto,))
    whole, cut = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("devices"))
    data = jax.device_put(waves(SAMPLES), cut)
    params = train(jax.device_put(start(), whole), data)

    found = {}
    places = {"whole on each device": whole, "cut over the devices": {"a": whole, "b": cut, "c": cut}}
    for name, shardings in places.items():
        objective = specop.objective(loss, params=jax.device_put(params, shardings), data=data)
        hessian = objective.hessian()
        eigen = found[name] = specop.eigsh(hessian, k=3, tol=1e-4)
        trace = specop.trace(hessian, rtol=0.05)
        part = eigen.rows.sharding.shard_shape(getattr(eigen.rows, "rows", eigen.rows).shape)
        print(f"parameters {name}: {objective.n}, of which a row has {part[1]} on each of {mesh.size} devices")
        print(f"  largest eigenvalues {np.round(eigen.eigenvalues, 4)}")
        print(f"  trace {trace.estimate:.3f} +- {trace.standard_error:.3f}")
        # A vector as the model's own parameters, spread as these are.
        direction = objective.unflatten(eigen.eigenvector(2))
        print(
            f"  of the sharpest direction {float(jnp.sum(direction['b'] ** 2)):.3f} lies in the hidden layer's biases"
        )
    return found


def loss(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["a"] + params["b"]) @ params["c"] - y) ** 2)


def waves(count: int):
    x = jax.random.uniform(jax.random.key(0), (count, INPUTS), minval=-2, maxval=2)
    return x, jnp.sin(2 * x[:, :1]) + x[:, 1:2]


def start():
    keys = jax.random.split(jax.random.key(1), 2)
    a = jax.random.normal(keys[0], (INPUTS, HIDDEN)) / INPUTS**0.5
    return {"a": a, "b": jnp.zeros(HIDDEN), "c": jax.random.normal(keys[1], (HIDDEN, 1)) / HIDDEN**0.5}


@jax.jit
def train(params, data):
    def step(params, _):
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, jax.grad(loss)(params, data)), None

    return jax.lax.scan(step, params, None, length=50)[0]


if __name__ == "__main__":
    main()
