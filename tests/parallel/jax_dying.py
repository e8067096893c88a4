"""Two processes of which the second one hangs in the middle of a run that is saved at each step, and is ended."""

import os
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import specop
from parallel.launch import place
from parallel.lost import check_that_the_run_goes_on_alone


def check_a_process_that_hangs_is_ended_and_ends_the_others_and_the_run_goes_on():
    folder, rank, _ = place()
    # Of a mesh that the other checks have not: each has its own limit.
    os.environ["SPECOP_JAX_TIMEOUT"] = "6"
    cut = NamedSharding(jax.make_mesh((jax.device_count(),), ("dying",)), PartitionSpec(None, "dying"))
    matrix = np.diag(np.arange(60.0))
    rows = jax.make_array_from_callback(matrix.shape, cut, lambda at: matrix[at])

    def callback(state):
        if rank == 1 and state.matvecs == 20:
            print("hangs", flush=True)
            # As in a read that never returns.
            time.sleep(60)

    operator = specop.DenseOperator(rows, is_symmetric=True)
    check_that_the_run_goes_on_alone(operator, matrix, folder, callback)
