"""Checks of what the landscape's functions and the example find on four devices of one process, against one device."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import sharded_jax
import specop
from parallel.jax_problems import DATA, RAW, close, criterion, mesh, outputs, spread


def check_what_the_shape_means_on_several_devices():
    here, batch_here = {name: jnp.asarray(value) for name, value in RAW.items()}, tuple(map(jnp.asarray, DATA))
    params, batch = spread("fsdp", mesh("fsdp"))
    told = []
    for own, data in ((params, batch), (here, batch_here)):
        objective = specop.objective(outputs, criterion, data, params=own, likelihood="categorical")
        point, noise = specop.landscape.critical_point(objective), specop.landscape.noise(objective)
        cuts, stable = specop.landscape.slices(objective), specop.landscape.stability(objective, lr=0.1)
        told.append(
            [
                [point.decrement, point.negative.estimate, point.smallest.estimate, point.largest.estimate],
                [noise.simple_scale.estimate, noise.curvature_scale.estimate],
                [stable.sharpness.estimate, stable.limit],
                cuts.losses,
                cuts.curvatures,
            ]
        )
    for found, expected in zip(*told, strict=True):
        close(found, expected, 1e-9)


def check_the_example():
    found = sharded_jax.main()
    # By JAX alone, at the same parameters on one device.
    data = sharded_jax.waves(sharded_jax.SAMPLES)
    vector, tree = ravel_pytree(sharded_jax.train(sharded_jax.start(), data))
    hessian = jax.jit(jax.hessian(lambda entries: sharded_jax.loss(tree(entries), data)))
    values = np.linalg.eigvalsh(hessian(vector))
    largest = np.sort(values[np.argsort(-np.abs(values))][:3])
    for eigen in found.values():
        close(eigen.eigenvalues, largest, 1e-6)
    assert "XLA_FLAGS=--xla_force_host_platform_device_count=4 python examples/sharded_jax.py" in sharded_jax.__doc__
