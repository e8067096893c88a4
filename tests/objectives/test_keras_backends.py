"""Keras on other backends than TensorFlow's; each takes a process, because Keras reads its backend once."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

JAX = """
import sys, warnings
import jax, jax.numpy as jnp, keras, numpy as np
import specop
from specop.errors import InvalidInputError, ParametersChangedError

random = np.random.default_rng(0)
x, y = random.standard_normal((8, 3)).astype("float32"), random.integers(0, 2, 8)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
layers = keras.layers


def model(**options):
    parts = [layers.Dense(4, activation="tanh", **options), layers.BatchNormalization(), layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((3,)), *parts, layers.Dense(2)])


def plain(network):
    def value(weights):
        others = [one.value for one in network.non_trainable_variables]
        outputs, _, losses = network.stateless_call(weights, others, x, training=False, return_losses=True)
        return loss(y, outputs) + sum(losses)
    return value


networks = keras.Sequential([keras.Input((3,)), layers.Dense(2)]), model(kernel_regularizer=keras.regularizers.L2(0.1))
for network in networks:
    weights = [one.value for one in network.trainable_variables]
    before = [np.array(one.value) for one in network.variables]
    objective = specop.objective(network, loss, [(x[:4], y[:4]), (x[4:], y[4:])])
    assert objective.names[0].startswith("dense") and objective.names[0].endswith("/kernel"), objective.names
    np.testing.assert_allclose(objective.loss(), plain(network)(weights), rtol=1e-6)
    ones = [jnp.ones_like(one) for one in weights]
    expected = jnp.concatenate([one.ravel() for one in jax.jvp(jax.grad(plain(network)), (weights,), (ones,))[1]])
    hessian = objective.hessian()
    vector = jnp.ones(objective.n, "float32")
    np.testing.assert_allclose(hessian @ vector, expected, atol=3e-6 * float(jnp.linalg.norm(expected)))
    assert not any("not verified" in note for note in hessian.notes), hessian.notes
    assert all(np.array_equal(one, other.value) for one, other in zip(before, network.variables))
    try:
        product = objective.ggn() @ vector
        # It is that of cross-entropy, whose Fisher matrix it is.
        np.testing.assert_allclose(product, objective.fisher() @ vector, atol=1e-6)
        assert network.losses == []
    except InvalidInputError as error:
        assert "as a penalty does" in str(error) and network.losses, error
network.layers[0].kernel.assign_add(np.ones((3, 4)))
try:
    hessian @ vector
    raise SystemExit("a model that moved was multiplied")
except ParametersChangedError:
    pass
half = keras.Sequential([keras.Input((3,)), layers.Dense(2, dtype="mixed_bfloat16")])
try:
    specop.objective(half, loss, (x, y))
    raise SystemExit("mixed precision was taken")
except InvalidInputError as error:
    assert "computes in bfloat16" in str(error)
assert "tensorflow" not in sys.modules
"""

TORCH = """
import sys
import keras, numpy as np
import specop
from specop.errors import InvalidInputError

network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
try:
    specop.objective(network, keras.losses.MeanSquaredError(), (np.ones((4, 3)), np.ones((4, 2))))
    raise SystemExit("taken")
except InvalidInputError as error:
    assert "runs on the torch backend" in str(error) and "KERAS_BACKEND=jax" in str(error), error
assert "tensorflow" not in sys.modules
"""


# Each imports two frameworks and compiles anew.
@pytest.mark.slow
@pytest.mark.parametrize(("backend", "program"), [("jax", JAX), ("torch", TORCH)])
def test_keras_on(backend, program, tmp_path):
    if not (find_spec("keras") and find_spec(backend)):
        pytest.skip(f"needs Keras and {backend}")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": paths, "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
