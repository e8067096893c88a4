"""In TensorFlow a monitor changes no bit of a training of Keras."""

import numpy as np
import pytest

import specop
from specop.training import Monitor

tf = pytest.importorskip("tensorflow")
import keras


def train(is_watched):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=7),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(3),
        ]
    )
    x, y = np.random.standard_normal((32, 4)).astype("float32"), np.random.randint(3, size=32)
    criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(model.trainable_variables)
    monitor = Monitor(specop.objective(model, criterion, (x, y)), every=3, what="lambda_max")
    draws = tf.random.Generator.from_seed(3)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            noise = 0.01 * draws.normal(x.shape) + 0.01 * tf.random.normal(x.shape)
            loss = criterion(y, model(x + noise, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    for i in range(8):
        if is_watched:
            monitor.record(i)
        step()
    weights = [np.asarray(one) for one in (*model.weights, *optimizer.variables, *model.non_trainable_variables)]
    return [*weights, draws.state.numpy(), tf.random.normal((2,)).numpy(), np.random.random(2)], monitor


def test_a_run_with_a_monitor_ends_in_the_same_bits():
    plain, _ = train(False)
    watched, monitor = train(True)
    for one, other in zip(plain, watched, strict=True):
        np.testing.assert_array_equal(one, other)
    assert monitor.history.steps.tolist() == [0, 3, 6] and len(set(monitor.history["lambda_max"])) == 3
