"""Settings of the whole test run. Nothing here imports NumPy or a framework."""

import importlib
import os
from pathlib import Path

import pytest
from hypothesis import settings

# One thread in each worker of pytest-xdist: two workers with two threads each only wait for each other. This
# runs before a test module imports NumPy or torch, which read the variable once, when they are loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# JAX reads it when it is imported; float64 is off by default.
os.environ.setdefault("JAX_ENABLE_X64", "1")
# Figures are written to files; no window is opened.
os.environ.setdefault("MPLBACKEND", "Agg")

# No deadline: the first call of a kernel takes much longer than the next. CI draws the same examples always.
settings.register_profile("specop", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("specop")


@pytest.fixture
def minicupy(monkeypatch):
    """An array framework, with its adapter installed for this test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "third_party"))
    return importlib.import_module("minicupy")
