"""Groups of processes for tests: each is started once, runs many checks, and ends by a time that is fixed.

A check is a function ``check_...()`` of a module beside this file, which all processes of the group run at the same
time. What it raises in any of them is the outcome of the test with its name.
"""

import ast
import contextlib
import fcntl
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "backends", ROOT / "tests", ROOT / "examples")))
# Seconds after which a collective gives up, and after which all processes are ended, whatever they do.
PATIENCE, END = 30, 240


def checks_of(*modules):
    """The names of the checks of some modules, without an import of these."""
    found = []
    for module in modules:
        tree = ast.parse((HERE / f"{module}.py").read_text())
        functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
        found += [(module, node.name) for node in functions if node.name.startswith("check_")]
    return found


def outcomes(tmp_path_factory, name, count, modules):
    """What each check raised in each process, by module and name; the same group for all workers of a test run."""
    own = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have folders of their own inside of one that they share.
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / f"group-{name}"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "outcomes.json").exists():
            said = start(folder, count, "parallel.launch", *modules)
            (folder / "outcomes.json").write_text(json.dumps(_collected(folder, count, modules, said)))
    return json.loads((folder / "outcomes.json").read_text())


def start(folder, count, module, *arguments, end=END):
    """Run a module in so many processes; return what each of them said, and end all that have not ended by then."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SPECOP_GROUP": str(folder), "WORLD_SIZE": str(count)}
    environment["PYTHONPATH"] = PATHS
    command = [sys.executable, "-m", module, *arguments]
    files = [open(folder / f"said-{rank}.txt", "w+") for rank in range(count)]  # noqa: SIM115
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.enter_context(file)
        processes = [
            subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stdout=file, stderr=subprocess.STDOUT)
            for rank, file in enumerate(files)
        ]
        try:
            last = time.monotonic() + end
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, last - time.monotonic()))
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for file in files:
            file.seek(0)
        return [file.read() for file in files]


def report(found, module, name):
    """Fail with what the check raised."""
    told = found[f"{module}.{name}"]
    wrong = [f"process {rank}: {text}" for rank, text in enumerate(told) if text is not None]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def join():
    """Join the group that this process was started for; return its store."""
    from torch import distributed

    folder, count, rank = os.environ["SPECOP_GROUP"], int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    store = distributed.FileStore(f"{folder}/store", count)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=PATIENCE)
    )
    # Of another name, so that outcomes do not need the group.
    told = distributed.FileStore(f"{folder}/told", count)
    told.set_timeout(timedelta(seconds=2 * PATIENCE))
    return told


def _collected(folder, count, modules, said):
    found = {f"{module}.{name}": [_not_run(text) for text in said] for module, name in checks_of(*modules)}
    for rank in range(count):
        path = folder / f"outcomes-{rank}.json"
        for name, text in (json.loads(path.read_text()) if path.exists() else {}).items():
            found[name][rank] = text
    return found


def _not_run(said):
    return f"was not run; the process said last\n{said[-3000:]}"


def _run(modules):
    """Run all checks in this process, as long as all processes agree on the outcomes."""
    from torch import distributed

    told, rank, count = join(), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    found = {}
    for module, name in checks_of(*modules):
        check = getattr(importlib.import_module(f"parallel.{module}"), name)
        began = time.perf_counter()
        told_as, text = "right", None
        try:
            check()
        except Exception as error:
            told_as, text = type(error).__name__, traceback.format_exc()
        if os.environ.get("SPECOP_TIMES"):
            print(f"{time.perf_counter() - began:6.2f} s {name}", flush=True)
        found[f"{module}.{name}"] = text
        Path(os.environ["SPECOP_GROUP"], f"outcomes-{rank}.json").write_text(json.dumps(found))
        told.set(f"{name}-{rank}", told_as)
        # What one process has raised alone may have left the others in the middle of something.
        if len({told.get(f"{name}-{other}") for other in range(count)}) > 1 or told_as == "ProcessError":
            return
    distributed.destroy_process_group()


if __name__ == "__main__":
    _run(sys.argv[1:])
