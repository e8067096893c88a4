"""Memory of products with cross-entropy over 50,304 classes: arrays of the logits' size at the peak.

    python tests/benchmarks/vocabulary.py
    python tests/benchmarks/vocabulary.py --frameworks jax --kinds ggn

2,048 rows of tanh(x w) v with 64 hidden units in float32, so that the logits are 412 MB. Each framework and kind of
matrix has a process of its own; its memory is read every millisecond, and what it had before the first product is
subtracted. The C library gives blocks of a megabyte back at once here: else small ones, free but kept, count as one
array more. TensorFlow's build for processors takes memory from a pool of its own that is never given back; its rows
with "plain memory" are without that pool.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from tables import Row, print_table

_ROWS, _CLASSES, _WIDTH = 2048, 50304, 64
_LOGITS = 4 * _ROWS * _CLASSES
_LIMIT = 600.0
# Without the library whose pool it is.
_PLAIN = {"TF_ENABLE_ONEDNN_OPTS": "0"}
_KEPT = {"MALLOC_MMAP_THRESHOLD_": "1000000", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
_FRAMEWORKS: dict[str, tuple[str, dict[str, str]]] = {
    "torch": ("torch", {}),
    "jax": ("jax", {}),
    "tensorflow": ("tensorflow", {}),
    "tensorflow, plain memory": ("tensorflow", _PLAIN),
    "keras on tensorflow": ("keras", {}),
    "keras on tensorflow, plain memory": ("keras", _PLAIN),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frameworks", default=";".join(_FRAMEWORKS), help="separated by semicolons")
    parser.add_argument("--kinds", default="ggn,hessian")
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "KIND"), help="what a process is to do")
    chosen = parser.parse_args()
    if chosen.child:
        _run(*chosen.child)
        return
    rows: list[Row] = []
    for name, kind in itertools.product(chosen.frameworks.split(";"), chosen.kinds.split(",")):
        model, settings = _FRAMEWORKS[name]
        command = [sys.executable, __file__, "--child", model, kind]
        given = os.environ | _KEPT | settings
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LIMIT, env=given)
        first, later, held = json.loads(done.stdout.splitlines()[-1])
        rows.append({"framework": name, "matrix": kind, "first product": first, "later ones": later, "held": held})
    print_table(f"{_ROWS:,} rows of {_CLASSES:,} classes, arrays of the logits' size", rows)


def _run(model: str, kind: str) -> None:
    matrix, vector = _problem(model, kind)
    before = _memory()
    peaks = [_peak(lambda: float(abs(np.asarray(matrix @ vector)).max())) for _ in range(3)]
    held = matrix.plan().bytes
    print(json.dumps([(peaks[0] - before) / _LOGITS, (max(peaks[1:]) - before) / _LOGITS, held / _LOGITS]))


def _problem(model: str, kind: str) -> tuple[Any, Any]:
    """Return the matrix and a vector."""
    import specop

    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape, dtype=np.float32) for shape in ((_WIDTH, _WIDTH), (_WIDTH, _CLASSES))]
    x, y = random.standard_normal((_ROWS, _WIDTH), dtype=np.float32), random.integers(0, _CLASSES, _ROWS)
    params = {name: array / 8 for name, array in zip("wv", arrays, strict=True)}
    network, criterion, make = _MODELS[model]()
    if network is None:
        objective = specop.objective(*criterion, (make(x), make(y)))
    else:
        given = {name: make(array) for name, array in params.items()}
        objective = specop.objective(network, criterion, (make(x), make(y)), params=given)
    return getattr(objective, kind)(), make(random.standard_normal(objective.n, dtype=np.float32))


def _torch() -> tuple[Any, Any, Any]:
    import torch
    from torch import nn

    return lambda p, batch: torch.tanh(batch[0] @ p["w"]) @ p["v"], nn.CrossEntropyLoss(), torch.from_numpy


def _jax() -> tuple[Any, Any, Any]:
    import jax.numpy as jnp
    import optax

    def criterion(z: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()

    return lambda p, batch: jnp.tanh(batch[0] @ p["w"]) @ p["v"], criterion, jnp.asarray


def _tensorflow() -> tuple[Any, Any, Any]:
    import tensorflow as tf

    def criterion(z: Any, y: Any) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))

    return lambda p, batch: tf.tanh(batch[0] @ p["w"]) @ p["v"], criterion, tf.constant


def _keras() -> tuple[Any, Any, Any]:
    import keras
    import tensorflow as tf

    layers = keras.layers.Dense(_WIDTH, activation="tanh"), keras.layers.Dense(_CLASSES)
    model = keras.Sequential([keras.Input((_WIDTH,)), *layers])
    return None, (model, keras.losses.SparseCategoricalCrossentropy(from_logits=True)), tf.constant


_MODELS = {"torch": _torch, "jax": _jax, "tensorflow": _tensorflow, "keras": _keras}


def _peak(run: Any) -> int:
    """Return the most memory that the process has while something runs."""
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], _memory())
            time.sleep(1e-3)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        run()
    finally:
        done.set()
        watching.join()
    return most[0]


def _memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (resident,) = (line for line in lines if line.startswith("VmRSS"))
    return 1024 * int(resident.split()[1])


if __name__ == "__main__":
    main()
