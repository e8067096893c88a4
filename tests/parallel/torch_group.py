"""A process of torch.distributed that runs checks: ``python -m parallel.torch_group MODULE ...``."""

import sys
from datetime import timedelta

from torch import distributed

from parallel.launch import place, run

# Seconds after which a collective gives up.
PATIENCE = 30


def join():
    """Join the group that this process was started for; return a store by which outcomes are told."""
    folder, rank, count = place()
    store = distributed.FileStore(f"{folder}/store", count)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=PATIENCE)
    )
    # Of another name, so that outcomes do not need the group.
    told = distributed.FileStore(f"{folder}/told", count)
    told.set_timeout(timedelta(seconds=2 * PATIENCE))
    return told


def main(modules):
    """Run all checks, as long as all processes agree on the outcomes."""
    told, (_, rank, count) = join(), place()

    def goes_on(name, outcome):
        told.set(f"{name}-{rank}", outcome)
        # What one process has raised alone may have left the others in the middle of something.
        return len({told.get(f"{name}-{other}") for other in range(count)}) == 1 and outcome != "ProcessError"

    if run(modules, goes_on):
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
