"""The curvature of a model in JAX on the devices of several processes, which train it together.

Two processes on a CPU::

    python examples/distributed_jax.py 0 & python examples/distributed_jax.py 1; wait

Each is told its number. On a cluster that JAX knows, such as one under Slurm or a pod of TPUs,
``jax.distributed.initialize()`` needs no arguments. Nothing is said to specop: all processes make each call together,
as they make each step of training together, and the first one prints.
"""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import specop
from sharded_jax import SAMPLES, loss, start, train, waves

PROCESSES = 2


def main(index: int) -> specop.results.EigenResult:
    mesh = jax.make_mesh((jax.device_count(),), ("devices",), axis_types=(AxisType.Auto,))
    whole, cut = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("devices"))

    # Each process has its own part of the samples, and all of them have the parameters from one seed.
    part = slice(index * SAMPLES // PROCESSES, (index + 1) * SAMPLES // PROCESSES)
    data = tuple(jax.make_array_from_process_local_data(cut, np.asarray(array)[part]) for array in waves(SAMPLES))
    params = train(jax.jit(start, out_shardings=whole)(), data)

    objective = specop.objective(loss, params=params, data=data)
    hessian = objective.hessian()
    eigen = specop.eigsh(hessian, k=3, tol=1e-4)
    trace = specop.trace(hessian, rtol=0.05)

    # All processes save together; the first one writes the file, which one process alone can read.
    eigen.save("eigen.npz")
    if index == 0:
        print(f"{jax.process_count()} processes, {jax.device_count()} devices, {objective.samples} samples")
        print("largest eigenvalues", *(f"{value:.4f}" for value in eigen.eigenvalues))
        print(f"trace {trace.estimate:.3f} +- {trace.standard_error:.3f}")
    return eigen


if __name__ == "__main__":
    own = int(sys.argv[1])
    jax.distributed.initialize("localhost:29500", PROCESSES, own)
    main(own)
