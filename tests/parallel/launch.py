"""Groups of processes for tests: each is started once, runs many checks, and ends by a time that is fixed.

A check is a function ``check_...()`` of a module beside this file, which all processes of the group run at the same
time. What it raises in any of them is the outcome of the test with its name. How processes join is a framework's own:
`torch_group` and `jax_group`.
"""

import ast
import contextlib
import fcntl
import gc
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "backends", ROOT / "tests", ROOT / "examples")))
# Seconds after which all processes are ended, whatever they do.
END = 400


def needs(framework):
    """Skip the test where a framework is not installed; it is imported by the group's processes only."""
    if find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")


def checks_of(*modules):
    """The names of the checks of some modules, without an import of these."""
    found = []
    for module in modules:
        tree = ast.parse((HERE / f"{module}.py").read_text())
        functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
        found += [(module, node.name) for node in functions if node.name.startswith("check_")]
    return found


def outcomes(tmp_path_factory, group, count, modules, forked=False, **environment):
    """What each check raised in each process, by module and name; the same group for all workers of a test run.

    A group that is forked starts its processes itself.
    """
    own = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have folders of their own inside of one that they share.
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / f"{group}-{modules[0]}"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "outcomes.json").exists():
            said = start(folder, count, f"parallel.{group}", *modules, forked=forked, **environment)
            (folder / "outcomes.json").write_text(json.dumps(_collected(folder, count, modules, said)))
    return json.loads((folder / "outcomes.json").read_text())


def start(folder, count, module, *arguments, end=END, forked=False, **environment):
    """Run a module in so many processes; return what each of them said, and end all that have not ended by then."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": PATHS,
        "SPECOP_GROUP": str(folder),
        "WORLD_SIZE": str(count),
        **environment,
    }
    command = [sys.executable, "-m", module, *arguments]
    files = [open(folder / f"said-{rank}.txt", "w+") for rank in range(count)]  # noqa: SIM115
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.enter_context(file)
        processes = [
            subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stdout=file, stderr=subprocess.STDOUT)
            for rank, file in enumerate(files[:1] if forked else files)
        ]
        _keep_to_one_core(processes)
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


def _keep_to_one_core(processes):
    """Let processes that wait for each other have one core, where the system can: an exchange between two of them then
    wakes no other core, which takes the system longer than what they compute meanwhile.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        # Each worker of pytest-xdist has a core of its own for it.
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        for process in processes:
            os.sched_setaffinity(process.pid, {cores[worker % len(cores)]})


def report(found, module, name):
    """Fail with what the check raised."""
    told = found[f"{module}.{name}"]
    wrong = [f"process {rank}: {text}" for rank, text in enumerate(told) if text is not None]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def place():
    """The folder of the group that this process was started for, the process's number, and how many there are."""
    return Path(os.environ["SPECOP_GROUP"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def run(modules, goes_on=lambda name, outcome: True):
    """Run all checks in this process and write down what they raise, as long as the group goes on.

    A module whose name ends in ``_dying`` has one check, at which a process of the group ends; it comes last.
    """
    folder, rank, _ = place()
    found = {}
    for module, name in checks_of(*modules):
        began, busy, outcome, text = time.perf_counter(), time.process_time(), "right", None
        try:
            check = getattr(importlib.import_module(f"parallel.{module}"), name)
            if not found:
                # As conftest.py does: what is imported stays.
                gc.freeze()
            check()
        except (Exception, pytest.fail.Exception) as error:
            outcome, text = type(error).__name__, traceback.format_exc()
        spent, busy = time.perf_counter() - began, time.process_time() - busy
        print(f"{spent:6.2f} s, {busy:6.2f} s of the processor, {name}", flush=True)
        found[f"{module}.{name}"] = text
        (folder / f"outcomes-{rank}.json").write_text(json.dumps(found))
        # A process that has ended tells no outcome.
        if module.endswith("_dying") or not goes_on(f"{module}.{name}", outcome):
            return False
    return True


def _collected(folder, count, modules, said):
    found = {f"{module}.{name}": [_not_run(text) for text in said] for module, name in checks_of(*modules)}
    for rank in range(count):
        path = folder / f"outcomes-{rank}.json"
        for name, text in (json.loads(path.read_text()) if path.exists() else {}).items():
            found[name][rank] = text
    return found


def _not_run(said):
    return f"was not run; the process said last\n{said[-10_000:]}"
