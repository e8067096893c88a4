"""Two processes of which the second one dies in the middle of a run that is saved at each step."""

import os

import numpy as np
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import specop
from parallel.launch import place
from parallel.lost import check_that_the_run_goes_on_alone


def check_a_process_that_dies_ends_the_others_and_the_run_goes_on():
    folder, rank, count = place()
    entries = np.diag(np.arange(60.0))
    matrix = distribute_tensor(torch.from_numpy(entries), init_device_mesh("cpu", (count,)), [Shard(1)])

    def callback(state):
        if rank == 1 and state.matvecs == 20:
            print("dies", flush=True)
            os._exit(7)

    operator = specop.DenseOperator(matrix, is_symmetric=True)
    check_that_the_run_goes_on_alone(operator, entries, folder, callback)
