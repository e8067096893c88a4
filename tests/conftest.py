"""Settings of the whole test run. Nothing here imports NumPy or a framework."""

import gc
import importlib
import os
import random
import re
import tempfile
from collections import defaultdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# JAX reads it when it is imported; float64 is off by default.
os.environ.setdefault("JAX_ENABLE_X64", "1")
# What XLA has compiled once, it compiles for no other test and no other worker of this run: models and kernels are made
# anew in every test, and most are programs that were there before. The events that tests count come all the same.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Most tests run a program once or twice, and making it takes the time: one thread and no optimizing of its kernels, a
# fifth of the time. What is computed stays; its roundings need not, as on another processor. XLA ends the process at a
# flag that it does not know, so these are for the versions that were tried. A setting of one's own comes first: under
# those of processors.py XLA compiles as it does for users.
_QUICK_TO_COMPILE = (
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
)
if find_spec("jaxlib") and version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", _QUICK_TO_COMPILE)
# Figures are written to files; no window is opened.
os.environ.setdefault("MPLBACKEND", "Agg")

# No deadline: the first call of a kernel takes much longer than the next. The same examples always, so that what passes
# here passes everywhere; pytest --hypothesis-profile=random looks for others.
settings.register_profile("specop", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None)
settings.load_profile("specop")

# The words in the name of a test, or of a module that its file imports, that tell whose arrays it computes with.
_LIBRARIES = {
    "torch": "torch",
    "jax": "jax",
    "flax": "jax",
    "equinox": "jax",
    "tensorflow": "tensorflow",
    "tf.Module": "tensorflow",
    "keras": "tensorflow",
}
_WORDS = re.compile("|".join(map(re.escape, _LIBRARIES)))
# The rooms whose code sees arrays and derivatives through an adapter and never asks which framework it is of.
_ROOMS = {"krylov", "spectral", "solvers", "landscape", "analysis", "objectives"}
_COMPILED = {"jax", "tensorflow"}


def pytest_configure(config):
    """Make the folder of compiled programs, for this process and for its workers, and give each of these one thread.

    Two workers with two threads each only wait for each other. NumPy and torch read the variable once, when they are
    loaded, and a worker loads NumPy with plugins of pytest, before this file: so it is there when a worker starts.
    """
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a worker whole files: what the tests of a file compile, trace and cache is made once, not in each worker."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items):
    """Mark each test with the libraries that it computes with, and run the quick ones first.

    With the variable SPECOP_TEST_ORDER, a number, files and the tests in them come in a random order instead.
    """
    for item in items:
        for library in sorted(libraries(item)) or ["core"]:
            item.add_marker(library)
    mark_repetitions(items)
    if seed := os.environ.get("SPECOP_TEST_ORDER"):
        places = {path: random.Random(f"{seed} {path}").random() for path in {str(item.path) for item in items}}
        items.sort(key=lambda item: (places[str(item.path)], random.Random(f"{seed} {item.nodeid}").random()))
    else:
        # The sort is stable: within a library files keep together, and so does what they compile. Groups of processes
        # come first, so that no worker is left alone with one at the end.
        order = ["core", "torch", "jax", "tensorflow"]

        def place(item):
            library = max(order.index(name) for name in order if item.get_closest_marker(name))
            return library, item.path.parent.name != "parallel"

        items.sort(key=place)


def pytest_collection_finish():
    """Take what is imported by now out of the collector's rounds: a million objects of frameworks that stay anyway."""
    gc.collect()
    gc.freeze()


def mark_repetitions(items):
    """Mark tests of the core in the frameworks that compile for seconds, where they also run in one that does not."""
    runs = defaultdict(set)
    for item in items:
        runs[item.path, item.originalname] |= marked(item)
    for item in items:
        is_repeated = marked(item) <= _COMPILED and runs[item.path, item.originalname] - _COMPILED
        if is_repeated and item.path.parent.name in _ROOMS and not item.get_closest_marker("adapter"):
            item.add_marker("repetition")


def marked(item):
    return {name for name in ("core", "torch", *_COMPILED) if item.get_closest_marker(name)}


def libraries(item):
    """The frameworks of a test, by its name or else by its module's imports; marks of its own count too."""
    own = {name for name in ("core", *_LIBRARIES.values()) if item.get_closest_marker(name)}
    named = {_LIBRARIES[word] for word in _WORDS.findall(item.nodeid)}
    imported = (value.__name__ for value in vars(item.module).values() if isinstance(value, ModuleType))
    return own or named or {_LIBRARIES[name] for name in imported if name in _LIBRARIES}


@pytest.fixture
def minicupy(monkeypatch):
    """An array framework, with its adapter installed for this test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "third_party"))
    return importlib.import_module("minicupy")
