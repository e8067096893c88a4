"""Two processes of which the second one hangs in the middle of a run that is saved at each step, and is ended."""

import os
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import specop
from parallel import jax_group
from specop.krylov import checkpoint

if __name__ == "__main__":
    jax_group.join()
    jax.config.update("jax_enable_x64", True)
    rank = jax.process_index()
    mesh = jax.make_mesh((jax.device_count(),), ("d",))
    matrix = np.diag(np.arange(60.0))
    rows = jax.make_array_from_callback((60, 60), NamedSharding(mesh, PartitionSpec(None, "d")), lambda at: matrix[at])
    checkpoint.INTERVAL, checkpoint._LARGEST_SHARE = -1.0, np.inf

    def callback(state):
        if rank == 1 and state.matvecs == 20:
            print("hangs", flush=True)
            # As in a read that never returns.
            time.sleep(600)

    path = Path(os.environ["SPECOP_GROUP"]) / "run.npz"
    A = specop.DenseOperator(rows, is_symmetric=True)
    try:
        specop.eigsh(A, k=2, ncv=14, tol=1e-8, checkpoint=path, callback=callback)
    except specop.errors.ProcessError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        # JAX would wait for the other process first, and end this one when its heart has not beaten for long enough.
        os._exit(3)
