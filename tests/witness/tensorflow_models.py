"""Models of TensorFlow and Keras for the witness of products."""

import keras
import tensorflow as tf

import specop
from witness.cases import SPREAD, X, Y, weights

layers = keras.layers


def cross_entropy(z, y):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))


def objective(model, dtype, criterion=cross_entropy, **keywords):
    data = tf.constant(X, dtype), tf.constant(Y)
    return specop.objective(model, criterion, data, likelihood="categorical", **keywords)


def network(*inner, shape=(12,)):
    """A Keras model, made in a dtype."""

    def make(dtype):
        keras.utils.set_random_seed(1)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            parts = [layers.Reshape(shape), *(make() for make in inner), layers.Flatten(), layers.Dense(3)]
            model = keras.Sequential([layers.Input((12,)), *parts])
        finally:
            keras.config.set_dtype_policy(before)
        return objective(model, dtype)

    return make


def between(function, dtype, factor=1.0, criterion=cross_entropy):
    """A function of parameters with one layer between linear ones."""
    params = [
        tf.constant(factor * weights(*shape, dtype=dtype, seed=seed)) for seed, shape in enumerate(((12, 6), (6, 3)))
    ]
    return objective(
        lambda p, batch: tf.matmul(function(tf.matmul(batch[0], p[0])), p[1]), dtype, criterion, params=params
    )


class Module(tf.Module):
    def __init__(self, dtype):
        self.first, self.last = (tf.Variable(weights(*shape, dtype=dtype)) for shape in ((12, 6), (6, 3)))

    def __call__(self, x):
        return tf.matmul(tf.nn.relu(tf.matmul(x, self.first)), self.last)


class Subclassed(keras.Model):
    """Has no configuration; a Wide&Deep of codes and numbers."""

    def __init__(self, dtype):
        super().__init__(dtype=dtype)
        self.codes, self.wide = layers.Embedding(9, 4, dtype=dtype), layers.Dense(3, dtype=dtype)
        self.deep, self.last = layers.Dense(8, "relu", dtype=dtype), layers.Dense(3, dtype=dtype)

    def call(self, x):
        codes = tf.reduce_mean(self.codes(tf.cast(tf.clip_by_value(4 * tf.abs(x), 0, 8), "int32")), 1)
        return self.wide(x) + self.last(self.deep(tf.concat([x, codes], 1)))


def subclassed(dtype):
    keras.utils.set_random_seed(1)
    model = Subclassed(dtype)
    model(tf.constant(X, dtype))
    return objective(model, dtype)


class Attention(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.MultiHeadAttention(2, 4)

    def build(self, shape):
        self.inner.build(shape, shape)

    def call(self, x):
        return x + self.inner(x, x)


def casting(kind):
    return lambda dtype: between(lambda z: tf.cast(tf.tanh(tf.cast(z, kind)), z.dtype), dtype)


RIGHT = {
    "tanh": lambda dtype: between(tf.tanh, dtype),
    "ReLU, max pooling": network(
        lambda: layers.Conv2D(4, 3, padding="same", activation="relu"),
        lambda: layers.MaxPooling2D(2, 1),
        shape=(3, 4, 1),
    ),
    "layer norm": network(lambda: layers.Dense(6), layers.LayerNormalization),
    "batch norm": network(lambda: layers.Dense(6), layers.BatchNormalization, layers.LeakyReLU),
    "Wide&Deep": subclassed,
    "recurrent": network(lambda: layers.LSTM(5), shape=(4, 3)),
    "transformer": network(lambda: layers.Dense(8), Attention, layers.LayerNormalization, shape=(4, 3)),
    "module": lambda dtype: objective(Module(dtype), dtype),
    "a tf.function inside": lambda dtype: between(tf.function(lambda z: tf.math.sin(z)), dtype),
    "a cast to float32": casting("float32"),
    "a cast to 16 bit": casting("bfloat16"),
    **{name: lambda dtype, f=factor: between(tf.tanh, dtype, factor=f) for name, factor in SPREAD.items()},
}


@tf.custom_gradient
def detached(z):
    slope = tf.stop_gradient(2 * tf.tanh(z) * (1 - tf.tanh(z) ** 2))
    return tf.tanh(z) ** 2, lambda g: g * slope


@tf.custom_gradient
def too_small(z):
    return tf.tanh(z), lambda g: 0.9 * g * (1 - tf.tanh(z) ** 2)


def detached_loss(z, y):
    slope = tf.stop_gradient((tf.nn.softmax(z) - tf.one_hot(y, 3, dtype=z.dtype)) / 8)
    return tf.stop_gradient(cross_entropy(z, y)) + tf.reduce_sum(slope * (z - tf.stop_gradient(z)))


def at_zeros(function):
    """A product of parameters of which two are zero, whose second derivative is one and not zero or NaN."""

    def make(dtype):
        params = {"x": tf.constant([0.0, 2.0, 0.0, 3.0], dtype)}
        return specop.objective(lambda p, _: function(p["x"]), params=params, data=tf.ones((1, 1), dtype))

    return make


ALL = ("hessian", "ggn", "exact", "mc", "empirical", "jacobian", "transposed")
WRONG = {
    "a product at zeros": (at_zeros(tf.reduce_prod), ("hessian",)),
    "cumulated products at zeros": (at_zeros(lambda x: tf.reduce_sum(tf.math.cumprod(x))), ("hessian",)),
    "a custom function": (lambda dtype: between(detached, dtype), ("hessian",)),
    "a wrong gradient": (lambda dtype: between(too_small, dtype), ALL),
    "a stopped gradient": (lambda dtype: between(lambda z: tf.stop_gradient(z) * z, dtype), ("hessian", "ggn")),
    "a custom criterion": (lambda dtype: between(tf.tanh, dtype, criterion=detached_loss), ("hessian", "ggn")),
}
