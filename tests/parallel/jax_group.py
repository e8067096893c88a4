"""A process of JAX with several devices that runs checks: ``python -m parallel.jax_group MODULE ...``."""

import os
import socket
import sys

from parallel.launch import outcomes, place, run


def outcomes_on(tmp_path_factory, devices, modules, processes=1):
    """What each check raised in each of so many processes with so many devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return outcomes(tmp_path_factory, "jax_group", processes, modules, XLA_FLAGS=flags, SPECOP_ADDRESS=address)


def join():
    """Join the processes that this one was started with."""
    import jax

    _, rank, count = place()
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            os.environ["SPECOP_ADDRESS"],
            count,
            rank,
            initialization_timeout=60,
            heartbeat_timeout_seconds=10,
            shutdown_timeout_seconds=10,
        )


if __name__ == "__main__":
    join()
    run(sys.argv[1:])
