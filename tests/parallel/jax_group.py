"""Processes with several devices for tests of JAX: started once, each runs many checks and ends by a fixed time.

A check is a function ``check_...()`` of a module beside this file. What it raises in any process is the outcome of the
test with its name.
"""

import ast
import contextlib
import fcntl
import importlib
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Seconds after which a process is ended, whatever it does.
END = 400


def checks_of(module):
    """The names of the checks of a module, without an import of it."""
    tree = ast.parse((HERE / f"{module}.py").read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return [node.name for node in functions if node.name.startswith("check_")]


def outcomes(tmp_path_factory, module, devices, processes=1):
    """What each check raised in each process, by name; the same processes for all workers of a test run."""
    own = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have folders of their own inside of one that they share.
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / f"group-{module}"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "outcomes.json").exists():
            said = start(folder, devices, processes, ["-m", "parallel.jax_group", module])
            found = {
                name: [f"was not run; the process said last\n{text[-3000:]}" for text in said]
                for name in checks_of(module)
            }
            for rank in range(processes):
                path = folder / f"outcomes-{rank}.json"
                for name, text in (json.loads(path.read_text()) if path.exists() else {}).items():
                    found[name][rank] = text
            (folder / "outcomes.json").write_text(json.dumps(found))
    return json.loads((folder / "outcomes.json").read_text())


def start(folder, devices, processes, arguments, end=END):
    """Run Python in so many processes with so many devices each; return what they said; end those that go on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "backends", ROOT / "tests", ROOT / "examples"))),
        "SPECOP_GROUP": f"{folder}|{address}|{processes}",
    }
    files = [open(Path(folder) / f"said-{rank}.txt", "w+") for rank in range(processes)]  # noqa: SIM115
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.enter_context(file)
        running = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env=environment | {"SPECOP_RANK": str(rank)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            for rank, file in enumerate(files)
        ]
        try:
            last = time.monotonic() + end
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, last - time.monotonic()))
        finally:
            for process in running:
                process.kill()
                process.wait()
        for file in files:
            file.seek(0)
        return [file.read() for file in files]


def report(found, name):
    """Fail with what the check raised."""
    wrong = [f"process {rank}: {text}" for rank, text in enumerate(found[name]) if text is not None]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def join():
    """Join the group that this process was started for; return its folder, and the process's number."""
    import jax

    folder, address, processes = os.environ["SPECOP_GROUP"].split("|")
    rank = int(os.environ["SPECOP_RANK"])
    if int(processes) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            address,
            int(processes),
            rank,
            initialization_timeout=60,
            heartbeat_timeout_seconds=10,
            shutdown_timeout_seconds=10,
        )
    return Path(folder), rank


def _run(module):
    folder, rank = join()
    found = {}
    for name in checks_of(module):
        began, text = time.perf_counter(), None
        try:
            getattr(importlib.import_module(f"parallel.{module}"), name)()
        except (Exception, pytest.fail.Exception):
            text = traceback.format_exc()
        print(f"{time.perf_counter() - began:6.2f} s {name}", flush=True)
        found[name] = text
        (folder / f"outcomes-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    _run(sys.argv[1])
