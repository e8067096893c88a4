"""The models of `problems` in JAX, as functions of a list of arrays."""

import jax
import jax.numpy as jnp
import numpy as np

import specop
from parity.problems import HEADS, WIDTH

# Without it JAX turns every float64 array into float32.
jax.config.update("jax_enable_x64", True)


def objective(problem, dtype, *, data=None, scaled=None, **keywords):
    """Objective with the weights of the problem in this dtype, of its data or others; `scaled` multiplies outputs."""
    params = [array(weight, dtype) for weight in problem.weights.values()]
    data = [(array(x, dtype), array(y, dtype)) for x, y in problem.batches] if data is None else data
    outputs, criterion = MODELS[problem.name]
    function = outputs if scaled is None else lambda params, batch: scaled() * outputs(params, batch)
    return specop.objective(function, criterion, data, params=params, likelihood=problem.likelihood, **keywords)


def derivatives(problem, x, y):
    """Outputs z, their Jacobian, and the Hessians of the loss in parameters and in z, by JAX in float64."""
    outputs, criterion = MODELS[problem.name]
    shapes = [weight.shape for weight in problem.weights.values()]
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]

    def at(theta):
        pieces = jnp.split(theta, ends)
        return outputs([piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)], (x, y))

    @jax.jit
    def found(theta):
        z = at(theta)
        hessian = jax.hessian(lambda theta: criterion(at(theta), y))(theta)
        curvature = jax.hessian(lambda z: criterion(z, y))(z)
        return z, jax.jacrev(at)(theta).reshape(z.size, -1), hessian, curvature.reshape(z.size, -1)

    return found(problem.vector)


def slope(problem, z, y):
    """Gradient of the loss in the outputs z, at labels y."""
    _, criterion = MODELS[problem.name]
    return jax.grad(criterion)(jnp.asarray(z), jnp.asarray(y))


def array(values, dtype):
    return jnp.asarray(values, dtype if np.issubdtype(values.dtype, np.floating) else None)


def exhaust_memory():
    """Ask for more memory than there can be."""
    jnp.zeros(10**15, dtype="int8").block_until_ready()


def cross_entropy(logits, labels):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1))


def binary_cross_entropy(logits, labels):
    return jnp.mean(jax.nn.softplus(logits) - labels * logits)


def squared_error(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


tanh = jnp.tanh


def centred(x):
    """Without the mean over samples."""
    return x - x.mean(0)


def swapped(x):
    """With the last two dimensions in the other order."""
    return x.swapaxes(-1, -2)


def mlp(params, batch):
    w1, b1, w2, b2, w3, b3 = params
    x, _ = batch
    x = jnp.tanh(x @ w1 + b1)
    x = jax.nn.softplus(x @ w2 + b2)
    return x @ w3 + b3


def cnn(params, batch):
    kernel1, bias1, kernel2, bias2, dense, bias = params
    x, _ = batch
    x = jnp.tanh(convolve(x, kernel1) + bias1)
    m, height, width, channels = x.shape
    x = x.reshape(m, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    x = jax.nn.gelu(convolve(x, kernel2) + bias2, approximate=True)
    return x.reshape(m, -1) @ dense + bias


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def transformer(params, batch):
    embedding, positions, scale1, shift1, qkv, out, scale2, shift2, up, up_bias, down, down_bias, head = params
    tokens, _ = batch
    x = embedding[tokens] + positions
    m, length, _ = x.shape
    q, k, v = (
        part.reshape(m, length, HEADS, -1).transpose(0, 2, 1, 3)
        for part in jnp.split(layer_norm(x, scale1, shift1) @ qkv, 3, axis=-1)
    )
    scores = q @ k.transpose(0, 1, 3, 2) / (WIDTH // HEADS) ** 0.5
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
    attended = jax.nn.softmax(scores) @ v
    x = x + attended.transpose(0, 2, 1, 3).reshape(m, length, WIDTH) @ out
    normed = layer_norm(x, scale2, shift2)
    x = x + jax.nn.gelu(normed @ up + up_bias, approximate=True) @ down + down_bias
    return x @ head


def layer_norm(x, scale, shift):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + shift


def wide_and_deep(params, batch):
    table1, table2, w1, b1, w2, b2, wide1, wide2, wide_dense = params
    x, _ = batch
    i, j, dense = x[:, 0].astype(int), x[:, 1].astype(int), x[:, 2:]
    deep = jnp.concatenate([table1[i], table2[j], dense], axis=1)
    deep = (jax.nn.softplus(deep @ w1 + b1) @ w2 + b2)[:, 0]
    return deep + wide1[i] + wide2[j] + dense @ wide_dense


# Outputs and criterion.
MODELS = {
    "mlp": (mlp, cross_entropy),
    "cnn": (cnn, cross_entropy),
    "transformer": (transformer, cross_entropy),
    "wide and deep": (wide_and_deep, binary_cross_entropy),
    "regression": (mlp, squared_error),
}
