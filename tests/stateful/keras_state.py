"""A compiled Keras model with batch normalization, dropout, a regularizer and a frozen layer."""

import keras
import tensorflow as tf

from stateful.cases import INPUTS, Subject
from stateful.tensorflow_state import cross_entropy, global_state


def subject():
    def dense(outputs, **options):
        return keras.layers.Dense(outputs, dtype="float64", **options)

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((3,), dtype="float64"),
            dense(4, activation="tanh", kernel_regularizer="l2"),
            keras.layers.BatchNormalization(dtype="float64"),
            keras.layers.Dropout(0.5, dtype="float64"),
            dense(4, trainable=False),
            dense(3),
        ]
    )
    model(tf.constant(INPUTS[0]), training=True)  # statistics and seeds that are not the initial ones
    model.compile(keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    return Subject(model, cross_entropy, tf.constant, lambda: state(model), {"likelihood": "categorical"})


def state(model):
    return {
        "variables": [(v.path, id(v.value), v.numpy(), v.trainable) for v in model.variables],
        "optimizer": [(v.path, v.numpy()) for v in model.optimizer.variables],
        "layers": [(layer.name, layer.trainable, layer.built, len(layer.losses)) for layer in model.layers],
        "losses": [float(loss) for loss in model.losses],
        "policy": (keras.config.floatx(), keras.config.dtype_policy().name),
        "global": global_state(),
    }
