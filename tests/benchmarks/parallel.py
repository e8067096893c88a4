"""What spread vectors cost beside products: Lanczos steps of n = 1e6 on 1, 2 and 4 processes of one machine, over gloo.

    python tests/benchmarks/parallel.py [--n 1000000] [--steps 60]

The operator is diagonal, so that its products need no other process and are subtracted. Below stands what gathering and
adding up a vector takes, once a product of a model's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def measured(n, steps):
    """Milliseconds a step and megabytes of basis, in this process of a group."""
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    import specop
    from specop.arrays.layout import Layout
    from specop.krylov.run import Run
    from specop.krylov.space import KrylovSpace
    from specop_torch.groups import group_of
    from specop_torch.sharded import sharded, sharded_layout

    torch.set_num_threads(1)
    count = distributed.get_world_size()
    group = group_of(init_device_mesh("cpu", (count,)))
    layout = sharded_layout(Layout(n, np.dtype(np.float32), torch.device("cpu")), group)
    A = specop.DiagonalOperator(sharded.from_host(np.linspace(0, 1, n) ** 3, layout))
    spent = [0.0]
    product = A._matvec

    def timed(x):
        began = time.perf_counter()
        image = product(x)
        spent[0] += time.perf_counter() - began
        return image

    A._matvec = timed
    with Run(A, "eigsh", symmetric=True) as run:
        space = KrylovSpace(run, steps)
        space.start()
        space.expand()
        distributed.barrier()
        spent[0], began = 0.0, time.perf_counter()
        for _ in range(steps - 2):
            space.expand()
        ms = 1e3 * (time.perf_counter() - began - spent[0]) / (steps - 2)
    basis = sum(block.untyped_storage().nbytes() for block in space._rows._basis.blocks)
    local = torch.zeros(group.own(n).stop - group.own(n).start)
    exchanges = []
    for _ in range(5):
        distributed.barrier()
        began = time.perf_counter()
        whole = group.gather(local, n)
        group.reduce(whole, 0.5, n, whole, False)
        exchanges.append(1e3 * (time.perf_counter() - began))
    return {"ms a step": ms, "MB of basis": basis / 1e6, "ms to gather and add up": float(np.median(exchanges))}


def main():
    """Start the groups one after the other."""
    options = argparse.ArgumentParser()
    options.add_argument("--n", type=int, default=1_000_000)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    chosen = options.parse_args()
    if "RANK" in os.environ:
        from torch import distributed

        distributed.init_process_group(
            "gloo",
            init_method=f"file://{os.environ['SPECOP_GROUP']}/store",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        found = measured(chosen.n, chosen.steps)
        if distributed.get_rank() == 0:
            print(json.dumps(found))
        distributed.destroy_process_group()
        return
    for count in chosen.processes:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "SPECOP_GROUP": folder, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
            environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "backends")))
            processes = [
                subprocess.Popen(
                    [sys.executable, *sys.argv],
                    env=environment | {"RANK": str(rank)},
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for rank in range(count)
            ]
            try:
                said = [process.communicate(timeout=300)[0] for process in processes]
            finally:
                for process in processes:
                    process.kill()
        found = json.loads(said[0])
        print(f"{count} processes: " + ", ".join(f"{value:.4g} {name}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
