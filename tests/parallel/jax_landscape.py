"""Checks of what the landscape's functions find on four devices of one process, against one device."""

import jax.numpy as jnp

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
