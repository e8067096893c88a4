"""The models of `problems` in TensorFlow, as functions of a list of tensors."""

import numpy as np
import tensorflow as tf

import specop
from parity.problems import HEADS, WIDTH


def objective(problem, dtype, *, data=None, scaled=None, **keywords):
    """Objective with the weights of the problem in this dtype, of its data or others; `scaled` multiplies outputs."""
    params = [array(weight, dtype) for weight in problem.weights.values()]
    data = [(array(x, dtype), array(y, dtype)) for x, y in problem.batches] if data is None else data
    outputs, criterion = MODELS[problem.name]
    function = outputs if scaled is None else lambda params, batch: scaled() * outputs(params, batch)
    return specop.objective(function, criterion, data, params=params, likelihood=problem.likelihood, **keywords)


def derivatives(problem, x, y):
    """Outputs z, their Jacobian, and the Hessians of the loss in parameters and in z, by gradient tapes in float64."""
    outputs, criterion = MODELS[problem.name]
    shapes = [weight.shape for weight in problem.weights.values()]
    batch = (array(x, "float64"), array(y, "float64"))

    @tf.function(autograph=False)
    def found(theta):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(theta)
            with tf.GradientTape() as inner:
                inner.watch(theta)
                pieces = tf.split(theta, [int(np.prod(shape)) for shape in shapes])
                z = outputs([tf.reshape(p, shape) for p, shape in zip(pieces, shapes, strict=True)], batch)
                loss = criterion(z, batch[1])
            gradient = inner.gradient(loss, theta)
        # Entry by entry: not all operations can be vectorized.
        jacobian, hessian = (outer.jacobian(value, theta, experimental_use_pfor=False) for value in (z, gradient))
        with tf.GradientTape() as tape:
            tape.watch(z)
            first = slope(problem, z, batch[1])
        curvature = tape.jacobian(first, z, experimental_use_pfor=False)
        size = z.shape.num_elements()
        return z, tf.reshape(jacobian, [size, -1]), hessian, tf.reshape(curvature, [size, -1])

    return found(tf.constant(problem.vector))


def slope(problem, z, y):
    """Gradient of the loss in the outputs z, at labels y."""
    _, criterion = MODELS[problem.name]
    z = tf.convert_to_tensor(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = criterion(z, tf.convert_to_tensor(y))
    return tape.gradient(loss, z)


def array(values, dtype):
    return tf.convert_to_tensor(values, dtype if np.issubdtype(values.dtype, np.floating) else None)


def exhaust_memory():
    """Fail as TensorFlow does where memory is short; asking for too much ends the process on some machines."""
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")


def cross_entropy(logits, labels):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def binary_cross_entropy(logits, labels):
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


def squared_error(outputs, targets):
    return tf.reduce_mean((outputs - targets) ** 2)


tanh = tf.tanh


def centred(x):
    """Without the mean over samples."""
    return x - tf.reduce_mean(x, 0)


def swapped(x):
    """With the last two dimensions in the other order."""
    return tf.linalg.matrix_transpose(x)


def gelu(x):
    # tf.nn.gelu rounds a constant to float32, which shows in the tenth digit.
    return 0.5 * x * (1 + tf.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def mlp(params, batch):
    w1, b1, w2, b2, w3, b3 = params
    x, _ = batch
    x = tf.tanh(x @ w1 + b1)
    x = tf.nn.softplus(x @ w2 + b2)
    return x @ w3 + b3


def cnn(params, batch):
    kernel1, bias1, kernel2, bias2, dense, bias = params
    x, _ = batch
    x = tf.nn.conv2d(x, kernel1, 1, "SAME") + bias1
    x = tf.nn.avg_pool2d(tf.tanh(x), 2, 2, "VALID")
    x = gelu(tf.nn.conv2d(x, kernel2, 1, "SAME") + bias2)
    return tf.reshape(x, (tf.shape(x)[0], -1)) @ dense + bias


def transformer(params, batch):
    embedding, positions, scale1, shift1, qkv, out, scale2, shift2, up, up_bias, down, down_bias, head = params
    tokens, _ = batch
    x = tf.gather(embedding, tokens) + positions
    m, length, _ = x.shape
    mixed = tf.reshape(layer_norm(x, scale1, shift1) @ qkv, (m, length, 3, HEADS, WIDTH // HEADS))
    q, k, v = tf.unstack(tf.transpose(mixed, (2, 0, 3, 1, 4)))
    scores = tf.matmul(q, k, transpose_b=True) / (WIDTH // HEADS) ** 0.5
    future = 1 - np.tril(np.ones((length, length)))
    # A large number instead of infinity, which TensorFlow multiplies by zero somewhere.
    attended = tf.nn.softmax(scores - tf.constant(1e9 * future, scores.dtype)) @ v
    x = x + tf.reshape(tf.transpose(attended, (0, 2, 1, 3)), (m, length, WIDTH)) @ out
    normed = layer_norm(x, scale2, shift2)
    x = x + gelu(normed @ up + up_bias) @ down + down_bias
    return x @ head


def layer_norm(x, scale, shift):
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    return centred / tf.sqrt(tf.reduce_mean(centred**2, -1, keepdims=True) + 1e-5) * scale + shift


def wide_and_deep(params, batch):
    table1, table2, w1, b1, w2, b2, wide1, wide2, wide_dense = params
    x, _ = batch
    i, j, dense = tf.cast(x[:, 0], tf.int32), tf.cast(x[:, 1], tf.int32), x[:, 2:]
    deep = tf.concat([tf.gather(table1, i), tf.gather(table2, j), dense], axis=1)
    deep = (tf.nn.softplus(deep @ w1 + b1) @ w2 + b2)[:, 0]
    return deep + tf.gather(wide1, i) + tf.gather(wide2, j) + tf.linalg.matvec(dense, wide_dense)


# Outputs and criterion.
MODELS = {
    "mlp": (mlp, cross_entropy),
    "cnn": (cnn, cross_entropy),
    "transformer": (transformer, cross_entropy),
    "wide and deep": (wide_and_deep, binary_cross_entropy),
    "regression": (mlp, squared_error),
}
