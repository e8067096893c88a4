"""Two processes of which the second one hangs in the middle of a run that is saved at each step, and is ended."""

import os
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import specop
from parallel.launch import place
from specop.errors import ProcessError
from specop.krylov import checkpoint


def check_a_process_that_hangs_is_ended_and_ends_the_others_and_the_run_goes_on():
    folder, rank, _ = place()
    # Of a mesh that the other checks have not: each has its own limit.
    os.environ["SPECOP_JAX_TIMEOUT"] = "2"
    cut = NamedSharding(jax.make_mesh((jax.device_count(),), ("dying",)), PartitionSpec(None, "dying"))
    matrix = np.diag(np.arange(60.0))
    rows = jax.make_array_from_callback(matrix.shape, cut, lambda at: matrix[at])
    checkpoint.INTERVAL, checkpoint._LARGEST_SHARE = -1.0, np.inf

    def callback(state):
        if rank == 1 and state.matvecs == 20:
            print("hangs", flush=True)
            # As in a read that never returns.
            time.sleep(60)

    options = {"k": 2, "ncv": 14, "tol": 1e-8, "checkpoint": folder / "dying.npz"}
    with pytest.raises(ProcessError, match="process 0 of 2 has lost the others"):
        specop.eigsh(specop.DenseOperator(rows, is_symmetric=True), **options, callback=callback)
    # What was saved before goes on in one process.
    found = specop.eigsh(matrix, **options)
    assert np.allclose(found.eigenvalues, [58, 59], atol=1e-6)
    assert found.matvecs > 20
