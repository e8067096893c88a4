"""Small models of Keras and TensorFlow, and their Hessians by TensorFlow alone."""

from unittest import mock

import keras
import numpy as np
import tensorflow as tf

layers = keras.layers
# A Keras loss computes in a dtype of its own.
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")


def mlp(dropout=0.0, **options):
    with double():
        dropped = [layers.Dropout(dropout)] if dropout else []
        return keras.Sequential(
            [layers.Input((3,)), layers.Dense(4, "tanh", **options), *dropped, layers.Dense(3, name="head")]
        )


def cnn():
    with double():
        model = keras.Sequential(
            [
                layers.Input((4, 4, 1)),
                layers.Conv2D(2, 3, padding="same"),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )
    model(normal(8, 4, 4, 1), training=True)  # running statistics that are not the initial ones
    return model


def transformer():
    with double():
        tokens = layers.Input((3,), dtype="int32")
        x = layers.Embedding(5, 2)(tokens)
        attended = layers.MultiHeadAttention(1, 2)(layers.LayerNormalization()(x), x, use_causal_mask=True)
        x = x + layers.Dense(2, "gelu")(x + attended)
        return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


class WideAndDeep(keras.Model):
    """Looks rows up in two tables; some are never looked up."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.wide = layers.Embedding(8, 1, dtype="float64")
        self.table = layers.Embedding(6, 2, dtype="float64")
        self.deep = layers.Dense(1, dtype="float64")

    def call(self, x):
        deep = self.deep(tf.tanh(tf.reshape(self.table(x), [-1, 4])))
        return tf.reduce_sum(self.wide(x), 1) + deep


class Scaled(tf.Module):
    """A tf.Module that gathers from a variable and calls a function of its own."""

    def __init__(self):
        super().__init__()
        self.table = tf.Variable(normal(6, 3, seed=1), name="table")
        self.w = tf.Variable(normal(3, 3, seed=2), name="w")
        self.unused = tf.Variable(normal(2, seed=3), name="unused")
        self.count = tf.Variable(2, trainable=False, name="count")

    @tf.function
    def mix(self, x):
        return tf.tanh(x @ self.w) * tf.cast(self.count, x.dtype)

    def __call__(self, x):
        return tf.reduce_sum(self.mix(tf.gather(self.table, x)), 1)


class double:  # noqa: N801 - reads like a function
    def __enter__(self):
        self.found = keras.config.floatx(), keras.config.dtype_policy()
        self.set("float64", "float64")

    def __exit__(self, *_):
        self.set(*self.found)

    @staticmethod
    def set(floatx, policy):
        # Once a layer has been made, the policy does not follow the type any more.
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def numbers(variable):
    return np.array(tf.convert_to_tensor(variable).numpy())


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).standard_normal(shape))


def integers(high, *shape, seed=0):
    return tf.constant(np.random.default_rng(seed).integers(0, high, shape).astype(np.int32))


def labels(n, classes=3):
    return tf.range(n) % classes


def problem(name, n=11):
    keras.utils.set_random_seed(0)
    if name == "mlp":
        return mlp(), CROSS_ENTROPY, (normal(n, 3), labels(n))
    if name == "cnn":
        return cnn(), CROSS_ENTROPY, (normal(n, 4, 4, 1), labels(n))
    if name == "transformer":
        return transformer(), CROSS_ENTROPY, (integers(5, n, 3), labels(n))
    if name == "wide and deep":
        model, x = WideAndDeep(), integers(5, n, 2)
        model(x)
        return (
            model,
            keras.losses.BinaryCrossentropy(from_logits=True, dtype="float64"),
            (x, tf.cast(labels(n, 2), tf.float64)[:, None]),
        )
    if name == "recurrent":
        with double():
            model = keras.Sequential([layers.Input((3, 2)), layers.GRU(2), layers.Dense(3)])
        return model, CROSS_ENTROPY, (normal(n, 3, 2), labels(n))
    if name == "module":
        return Scaled(), cross_entropy, (integers(5, n, 2), labels(n))
    raise KeyError(name)


def cross_entropy(outputs, y):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs))


def exact(model, criterion, batch):
    """Loss, gradient and Hessian by TensorFlow's own Jacobian of the gradient, at the model's variables."""
    variables = [getattr(v, "value", v) if isinstance(v, keras.Variable) else v for v in model.trainable_variables]

    def loss():
        arguments = {"training": False} if isinstance(model, keras.Model) else {}
        outputs = model(batch[0], **arguments)
        return (
            criterion(batch[1], outputs) if isinstance(criterion, keras.losses.Loss) else criterion(outputs, batch[1])
        )

    @tf.function(autograph=False)
    def derivatives():
        return jacobian(loss, variables)

    return derivatives()


def moments(x, axes, keepdims=False):
    return tf.reduce_mean(x, axes, keepdims), tf.math.reduce_variance(x, axes, keepdims)


def jacobian(loss, points):
    # TensorFlow's own moments take the mean in the variance for a constant, which spoils second derivatives.
    with mock.patch.object(tf.nn, "moments", moments), tf.GradientTape(persistent=True) as outer:
        outer.watch(points)
        with tf.GradientTape() as inner:
            inner.watch(points)
            value = loss()
        gradient = flat(inner.gradient(value, points), points)
    rows = outer.jacobian(gradient, points, experimental_use_pfor=False)
    n = gradient.shape[0]
    blocks = [tf.zeros([n, *p.shape], p.dtype) if r is None else r for r, p in zip(rows, points, strict=True)]
    return value, gradient, tf.concat([tf.reshape(block, [n, -1]) for block in blocks], 1)


def flat(tensors, like):
    return tf.concat(
        [tf.reshape(tf.zeros_like(p) if t is None else t, [-1]) for t, p in zip(tensors, like, strict=True)], 0
    )


def close(found, expected, tol=1e-10):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol * max(1.0, np.abs(expected).max()))


def split(batch, *sizes):
    return list(zip(*(tf.split(part, sizes) for part in batch), strict=True))
