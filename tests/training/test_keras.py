"""The callback in Keras' fit: records, logs, and bits that stay."""

import csv

import numpy as np
import pytest

import specop
from specop.training import Monitor

pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
from specop_tensorflow.keras import MonitorCallback


def fit(tmp_path, monitored):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3),
        ]
    )
    criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=criterion)
    x, y = np.random.standard_normal((64, 4)).astype("float32"), np.random.randint(3, size=64)
    monitor = Monitor(specop.objective(model, criterion, (x[:32], y[:32])), every=3)
    callbacks = [MonitorCallback(monitor)] if monitored else []
    path = tmp_path / "log.csv"
    fitted = model.fit(
        x, y, batch_size=16, epochs=2, verbose=0, callbacks=[*callbacks, keras.callbacks.CSVLogger(path)]
    )
    return [np.asarray(one) for one in (*model.weights, *model.optimizer.variables)], monitor, fitted.history, path


def test_records_are_logged_and_no_bit_changes(tmp_path):
    (tmp_path / "plain").mkdir()
    plain, _, usual, _ = fit(tmp_path / "plain", False)
    watched, monitor, logged, path = fit(tmp_path, True)
    for one, other in zip(plain, watched, strict=True):
        np.testing.assert_array_equal(one, other)
    assert usual["loss"] == logged["loss"]
    history = monitor.history
    assert history.steps.tolist() == [0, 3, 6]
    np.testing.assert_allclose(history["limit"], [np.nan, 3800.0, 3800.0], rtol=1e-3)
    # The latest of each epoch of four steps.
    np.testing.assert_allclose(logged["curvature/lambda_max"], history["lambda_max"][1:])
    with open(path) as file:
        written = [float(row["curvature/lambda_max"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(written, history["lambda_max"][1:])
