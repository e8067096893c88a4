"""Replica contexts of tf.distribute are refused by name; variables of a strategy can be read outside of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError

tf = pytest.importorskip("tensorflow")


def loss(params, batch):
    x, y = batch
    return tf.reduce_mean((tf.linalg.matvec(x, params["w"]) - y) ** 2)


def test_only_outside_of_a_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal(6)
    with strategy.scope():
        params = {"w": tf.Variable(rng.standard_normal(3))}
        with pytest.raises(InvalidInputError, match=r"tf\.distribute\.Strategy\. Call it outside"):
            specop.objective(loss, params=params, data=(x, y))

    def in_a_replica():
        specop.objective(loss, params={"w": tf.constant(rng.standard_normal(3))}, data=(x, y))

    with pytest.raises(InvalidInputError, match=r"tf\.distribute\.Strategy\. Call it outside"):
        strategy.run(in_a_replica)
    H = specop.objective(loss, params={"w": tf.constant(params["w"].numpy())}, data=(x, y)).hessian()
    np.testing.assert_allclose(H.to_dense(), 2 * x.T @ x / 6, atol=1e-12)


def test_one_of_several_workers_says_whose_data_are_meant(monkeypatch):
    cluster = {"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    params, data = {"w": tf.constant(np.ones(3))}, (np.ones((6, 3)), np.ones(6))
    with pytest.raises(InvalidInputError, match=r"one of 2 processes.*parallel=False"):
        specop.objective(loss, params=params, data=data)
    with pytest.raises(InvalidInputError, match="not available yet with this framework"):
        specop.objective(loss, params=params, data=data, parallel=True)
    assert specop.objective(loss, params=params, data=data, parallel=False).loss() == 4.0


MIRRORED = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, specop
from specop.errors import InvalidInputError, ParametersChangedError

rng = np.random.default_rng(0)
x, y = rng.standard_normal((8, 3)), rng.integers(0, 2, 8)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")


def made():
    layers = keras.layers.Dense(4, "tanh"), keras.layers.BatchNormalization(), keras.layers.Dense(2)
    return keras.Sequential([keras.Input((3,)), *layers])


keras.config.set_floatx("float64")
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    mirrored = made()
alone = made()
alone.set_weights(mirrored.get_weights())
assert len(mirrored.weights[0].value.values) == 2
batches = [(x[:5], y[:5]), (x[5:], y[5:])]
one, two = (specop.objective(model, loss, batches) for model in (alone, mirrored))
np.testing.assert_allclose(two.loss(), one.loss(), rtol=1e-14)
np.testing.assert_allclose(two.gradient(), one.gradient(), atol=1e-14)
hessian = two.hessian()
for matrix in ("hessian", "ggn"):
    found, right = (one.matrix(matrix).to_dense() for one in (two, one))
    np.testing.assert_allclose(found, right, atol=1e-13)
top = specop.eigsh(hessian, k=2, which="LA", tol=1e-10).eigenvalues
np.testing.assert_allclose(top, np.linalg.eigvalsh(one.hessian().to_dense())[-2:], atol=1e-12)
parts = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((x, y)).batch(4))
try:
    specop.objective(mirrored, loss, parts).loss()
    raise SystemExit("parts for replicas were taken")
except InvalidInputError as error:
    assert "a part for each replica" in str(error), error
with strategy.scope():
    mirrored.trainable_variables[0].assign(mirrored.trainable_variables[0] + 1.0)
try:
    hessian @ two.gradient()
    raise SystemExit("a model that moved was multiplied")
except ParametersChangedError:
    pass
"""


def test_mirrored_variables_are_read_on_their_first_device():
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "backends")])
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
