"""Run tests as other processors would round.

    python tests/processors.py [--list] [--all-at-once] [--only NAME]... [--smoke] [PYTEST'S ARGUMENTS]

Sums are taken in the order that suits a processor's registers, and functions such as tanh have one program for each
of its instruction sets, so the last digits of a result are the machine's. Each setting below makes a library of this
machine compute as it would on another one. It counts only where a few numbers show that it changes bits here. The
tests are run once for each that counts, those of the libraries that it concerns, or once under all at once.

The last two settings change no rounding but what else must not matter: how strings are hashed, and the order of tests.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
EVERYTHING = ("core", "torch", "jax", "tensorflow")

# In a fresh interpreter, because each library reads its settings once: what the processor computes of some numbers.
_NUMBERS = """
import sys, numpy as np
rng = np.random.default_rng(0)
square, line = rng.standard_normal((150, 150)), rng.standard_normal(1000)
image, filters = rng.standard_normal((8, 3, 12, 12)), rng.standard_normal((4, 3, 3, 3))
"""
_FUNCTIONS = {
    "core": """
import scipy.linalg
found = [square @ square, square @ line[:150], line @ line, np.exp(line), np.tanh(line), line.sum(),
         np.tanh(line.astype("f")), np.linalg.eigvalsh(square + square.T), scipy.linalg.cholesky(square.T @ square)]
""",
    "torch": """
import torch
found = []
for dtype in torch.float32, torch.float64:
    a, x, y, w = (torch.tensor(array, dtype=dtype) for array in (square, line, image, filters))
    found += [a @ a, a @ x[:150], x.exp(), a.tanh(), a.softmax(1), x.sum(), torch.nn.functional.conv2d(y, w)]
""",
    "jax": """
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
found = []
for dtype in jnp.float32, jnp.float64:
    a, x, y, w = (jnp.asarray(array, dtype) for array in (square, line, image, filters))
    functions = (lambda a: a @ a), jnp.tanh, jax.nn.softmax, jnp.sum
    found += [jax.jit(function)(a) for function in functions] + [jax.lax.conv(y, w, (1, 1), "SAME")]
""",
    "tensorflow": """
import tensorflow as tf
found = []
for dtype in tf.float32, tf.float64:
    a, x = tf.constant(square, dtype), tf.constant(line, dtype)
    y, w = (tf.constant(array, dtype) for array in (image.transpose(0, 2, 3, 1), filters.transpose(2, 3, 1, 0)))
    found += [a @ a, tf.exp(x), tf.tanh(a), tf.nn.softmax(a), tf.reduce_sum(x), tf.nn.conv2d(y, w, 1, "SAME")]
""",
}
_PRINT = """
import hashlib
print(hashlib.sha256(b"".join(np.ascontiguousarray(np.asarray(array)).tobytes() for array in found)).hexdigest())
"""

# The instruction sets that NumPy found here beyond those that it was built to need; their names depend on its version.
_FEATURES = """
from numpy._core import _multiarray_umath as umath
print(" ".join(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]))
"""


@dataclass(frozen=True)
class Setting:
    """Variables of the environment, and the libraries that heed them; `combined`: also part of all at once."""

    name: str
    variables: dict[str, str]
    concerns: tuple[str, ...] = EVERYTHING
    combined: bool = False


def settings() -> list[Setting]:
    """Every setting that may count, those of one variable from the least to the most."""
    return [
        Setting("one thread", {"OMP_NUM_THREADS": "1"}),
        Setting("two threads", {"OMP_NUM_THREADS": "2"}),
        Setting("OpenBLAS Nehalem", {"OPENBLAS_CORETYPE": "Nehalem"}, ("core",), combined=True),
        Setting("OpenBLAS Haswell", {"OPENBLAS_CORETYPE": "Haswell"}, ("core",)),
        Setting("NumPy's least", {"NPY_DISABLE_CPU_FEATURES": numpy_features()}, ("core",), combined=True),
        Setting("torch's least", {"ATEN_CPU_CAPABILITY": "default"}, ("torch",), combined=True),
        Setting("torch AVX2", {"ATEN_CPU_CAPABILITY": "avx2"}, ("torch",)),
        Setting("MKL compatible", {"MKL_CBWR": "COMPATIBLE"}, ("torch",), combined=True),
        # Not TensorFlow, which asks the processor whether oneDNN has bfloat16, and ends the process where it has not.
        Setting("oneDNN SSE4.1", {"ONEDNN_MAX_CPU_ISA": "SSE41"}, ("torch", "jax"), combined=True),
        Setting("oneDNN AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, ("torch", "jax")),
        Setting("TensorFlow without oneDNN", {"TF_ENABLE_ONEDNN_OPTS": "0"}, ("tensorflow",), combined=True),
        # Below AVX it has no conversion to float16.
        Setting("XLA AVX", {"XLA_FLAGS": "--xla_cpu_max_isa=AVX"}, ("jax",), combined=True),
        Setting("hashes", {"PYTHONHASHSEED": "1"}),
        Setting("order", {"SPECOP_TEST_ORDER": "1"}),
    ]


_WITHOUT_BITS = {"hashes", "order"}


def main() -> int:
    """Return how many of the runs failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--list", action="store_true", help="only say which settings count here")
    parser.add_argument("--all-at-once", action="store_true", help="one run under one setting of each library")
    parser.add_argument("--only", action="append", metavar="NAME", help="a setting by its name; may be repeated")
    parser.add_argument("--smoke", action="store_true", help="the core, and of the frameworks what is marked as smoke")
    parser.add_argument("--minutes", type=float, default=60.0, help="the time that one run may take")
    options, arguments = parser.parse_known_args()
    known = settings()
    if unknown := set(options.only or []) - {setting.name for setting in known}:
        parser.error(f"no setting {unknown.pop()!r}; there are {', '.join(setting.name for setting in known)}")
    chosen = [s for s in known if s.name in options.only] if options.only else known
    if options.all_at_once:
        together = [setting.variables for setting in known if setting.combined]
        chosen = [Setting("all at once", {key: value for one in together for key, value in one.items()})]

    before = {library: numbers(library, {}) for library in EVERYTHING if find_spec(library.replace("core", "numpy"))}
    failed = []
    for setting in chosen:
        changed = [library for library in setting.concerns if library in before]
        if setting.name not in _WITHOUT_BITS:
            changed = [one for one in changed if numbers(one, setting.variables) not in (before[one], None)]
        print(f"{setting.name}: {variables(setting)}: {', '.join(changed) or 'changes no bit here'}", flush=True)
        if changed and not options.list:
            start, passed = time.monotonic(), run(setting, changed, options, arguments)
            print(f"{setting.name}: {'passed' if passed else 'FAILED'}, {time.monotonic() - start:.0f} s", flush=True)
            failed += [] if passed else [setting.name]
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


def variables(setting: Setting) -> str:
    """The setting as a shell would take it."""
    return " ".join(
        f"{key}={value!r}" if " " in value else f"{key}={value}" for key, value in setting.variables.items()
    )


def numbers(library: str, changed: dict[str, str]) -> str | None:
    """A hash of what a library computes under these variables; None if it does not bear them."""
    return output(_NUMBERS + _FUNCTIONS[library] + _PRINT, changed)


def numpy_features() -> str:
    """What NumPy can be told not to use here."""
    return output(_FEATURES, {}) or ""


def output(code: str, changed: dict[str, str]) -> str | None:
    """What a fresh interpreter prints, without white space around it."""
    environment = os.environ | changed
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)
    return done.stdout.strip() if done.returncode == 0 else None


def run(setting: Setting, libraries: list[str], options: argparse.Namespace, arguments: list[str]) -> bool:
    """Whether the tests of these libraries pass under a setting."""
    # What is marked as smoke may be a repetition; all else is what the test command runs.
    part = "(core or smoke)" if options.smoke else "not repetition"
    marked = f"{part} and ({' or '.join(libraries)}) and not benchmark and not slow"
    limit = 60 * options.minutes
    command = [sys.executable, "-m", "pytest", "-q", "-m", marked, *arguments]
    try:
        done = subprocess.run(command, timeout=limit, cwd=ROOT, env=os.environ | setting.variables)
    except subprocess.TimeoutExpired:
        print(f"stopped after {limit:.0f} s")
        return False
    return done.returncode in (0, 5)  # 5: no test of these files concerns the libraries


if __name__ == "__main__":
    sys.exit(main())
