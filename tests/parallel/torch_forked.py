"""Processes of torch.distributed that share what one has imported: ``python -m parallel.torch_forked MODULE ...``.

Four that import for themselves would take longer for that than for all of their checks; two take 2 s of processor time
more.
"""

import os
import signal
import sys

# Imported here for all of them.
import torch._dynamo
import torch.distributed.fsdp
import torch.distributed.tensor.parallel  # noqa: F401

import specop_torch.spreading  # noqa: F401
from parallel import torch_group
from parallel.launch import END, place


def main(modules):
    """Start the processes, and wait for them."""
    folder, _, count = place()
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            # Nobody ends them but they themselves.
            signal.alarm(END)
            os.environ["RANK"] = str(rank)
            said = os.open(folder / f"said-{rank}.txt", os.O_WRONLY | os.O_APPEND)
            os.dup2(said, 1)
            os.dup2(said, 2)
            try:
                torch_group.main(modules)
            finally:
                sys.stdout.flush()
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
