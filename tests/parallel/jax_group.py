"""A process of JAX with several devices that runs checks: ``python -m parallel.jax_group MODULE ...``."""

import os
import socket
import sys
from pathlib import Path
from unittest import mock

from parallel.launch import outcomes, place, run


def outcomes_on(tmp_path_factory, devices, modules, processes=1):
    """What each check raised in each of so many processes with so many devices each."""
    return outcomes(tmp_path_factory, "jax_group", processes, modules, **_settings(devices))


def _settings(devices):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {"XLA_FLAGS": flags, "SPECOP_ADDRESS": address}


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
        _let_others_compute_first()


def _let_others_compute_first():
    """Let the thread in which gloo receives have the core of the group only where no process computes.

    Where another process has sent what this one does not yet await, it looks again and again: a fifth of the group's
    processor time, while both compile.
    """
    from jax._src import xla_bridge

    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return
    make = xla_bridge._jax.make_gloo_tcp_collectives

    def made(**options):
        before = set(os.listdir(tasks))
        found = make(**options)
        for number in set(os.listdir(tasks)) - before:
            os.setpriority(os.PRIO_PROCESS, int(number), 19)
        return found

    with mock.patch.object(xla_bridge._jax, "make_gloo_tcp_collectives", made):
        xla_bridge.get_backend()


def goes_on(name, outcome):
    """Whether all processes have the same outcome: what one has raised alone may have left the others in a program."""
    from jax._src import distributed

    _, rank, count = place()
    if count == 1:
        return True
    # JAX has no public way to tell something without a program of all devices.
    told = distributed.global_state.client
    told.key_value_set(f"{name}-{rank}", outcome)
    outcomes = {told.blocking_key_value_get(f"{name}-{other}", 30_000) for other in range(count)}
    return len(outcomes) == 1 and outcome != "ProcessError"


if __name__ == "__main__":
    join()
    if not run(sys.argv[1:], goes_on):
        # Without a word to the other process, which waits in a program of both: the connection ends with this one.
        sys.stdout.flush()
        os._exit(1)
