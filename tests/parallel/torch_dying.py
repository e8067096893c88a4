"""Two processes of which the second one dies in the middle of a run that is saved at each step."""

import os

import numpy as np
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import specop
from parallel import torch_group
from specop.krylov import checkpoint

if __name__ == "__main__":
    torch_group.join()
    rank = distributed.get_rank()
    mesh = init_device_mesh("cpu", (2,))
    matrix = distribute_tensor(torch.diag(torch.arange(60.0, dtype=torch.float64)), mesh, [Shard(1)])
    checkpoint.INTERVAL, checkpoint._LARGEST_SHARE = -1.0, np.inf

    def callback(state):
        if rank == 1 and state.matvecs == 20:
            print("dies", flush=True)
            os._exit(7)

    path = os.path.join(os.environ["SPECOP_GROUP"], "run.npz")
    A = specop.DenseOperator(matrix, is_symmetric=True)
    try:
        specop.eigsh(A, k=2, ncv=14, tol=1e-8, checkpoint=path, callback=callback)
    except specop.errors.ProcessError as error:
        print(f"{type(error).__name__}: {error}")
