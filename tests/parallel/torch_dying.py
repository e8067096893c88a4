"""Two processes of which the second one dies in the middle of a run that is saved at each step."""

import os

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import specop
from parallel.launch import place
from specop.errors import ProcessError
from specop.krylov import checkpoint


def check_a_process_that_dies_ends_the_others_and_the_run_goes_on():
    folder, rank, count = place()
    entries = np.diag(np.arange(60.0))
    matrix = distribute_tensor(torch.from_numpy(entries), init_device_mesh("cpu", (count,)), [Shard(1)])
    checkpoint.INTERVAL, checkpoint._LARGEST_SHARE = -1.0, np.inf

    def callback(state):
        if rank == 1 and state.matvecs == 20:
            print("dies", flush=True)
            os._exit(7)

    options = {"k": 2, "ncv": 14, "tol": 1e-8, "checkpoint": folder / "dying.npz"}
    with pytest.raises(ProcessError, match="process 0 of 2 has lost the others"):
        specop.eigsh(specop.DenseOperator(matrix, is_symmetric=True), **options, callback=callback)
    # What was saved before goes on in one process.
    found = specop.eigsh(entries, **options)
    assert np.allclose(found.eigenvalues, [58, 59], atol=1e-6)
    assert found.matvecs > 20
