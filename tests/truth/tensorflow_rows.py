"""Functions of tf.math, tf.nn and tf.linalg, Keras layers and losses, each at ordinary and at special points."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import specop
from judge import Truth, curvature, noting, verdict
from points import ABOVE_ONE, EQUAL, FAR, INSIDE, POSITIVE, SINGULAR, SQUARE, TIES, ZERO, ZEROS, points

__all__ = ["judged", "rows"]

# A loss of a list of tensors, and the list's values.
Row = tuple[Callable[[list[Any]], Any], list[np.ndarray]]


def rows() -> Iterator[tuple[str, str, Callable[[], Row]]]:
    """Yield (operation, point, function that makes a loss and its point)."""
    for name, (function, at) in {**ELEMENTWISE, **FUNCTIONS}.items():
        for label, point in at.items():
            yield name, label, functools.partial(_applied, function, point)
    for name, (make, shape) in LAYERS.items():
        yield name, "ordinary", functools.partial(_layer, make, shape)


def judged(make: Callable[[], Row]) -> tuple[Truth | None, dict[str, str]]:
    """Return the truth about one row, and each library's verdict."""
    keras.utils.set_random_seed(0)
    loss, point = make()
    theta = np.concatenate([np.ravel(each) for each in point])
    # In a graph, as fit() computes it: there crossentropies see logits where probabilities come from a softmax.
    value = tf.function(loss)
    truth = curvature(lambda flat: float(value(_pieces(flat, point))), theta)
    found = {}
    for name, tool in {"specop": _specop, "tape of a tape": _tapes, "accumulator over a tape": _forward}.items():
        found[name] = verdict(lambda v, tool=tool: tool(loss, point)(v), len(theta), truth)
    return truth, found


def outer(out: Any) -> tf.Tensor:
    """Return a loss with first and second derivatives in every output."""
    total = tf.zeros((), tf.float64)
    for each in tf.nest.flatten(out):
        if each.dtype.is_complex:
            each = tf.stack([tf.math.real(each), tf.math.imag(each)])
        if each.dtype.is_floating:
            flat = tf.reshape(each, [-1])
            weights = tf.cos(1.0 + tf.range(tf.size(flat), dtype=tf.float64))
            total += tf.reduce_sum(weights * flat) + 0.5 * tf.reduce_sum((1.2 + weights) * flat**2)
    return total


def _specop(loss: Callable[[list[Any]], Any], point: list[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    params, data = [tf.Variable(each) for each in point], tf.zeros(1, tf.float64)
    H = specop.objective(lambda p, batch: loss(p) + 0.0 * tf.reduce_sum(batch), params=params, data=data).hessian()
    return lambda v: noting(H, (H @ tf.constant(v)).numpy())


def _tapes(loss: Callable[[list[Any]], Any], point: list[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    def product(v: np.ndarray) -> np.ndarray:
        variables = [tf.Variable(each) for each in point]
        with tf.GradientTape() as outside:
            with tf.GradientTape() as inside:
                value = loss([tf.convert_to_tensor(each) for each in variables])
            gradients = inside.gradient(value, variables, unconnected_gradients="zero")
            inner = tf.add_n([tf.reduce_sum(g * p) for g, p in zip(gradients, _pieces(v, point), strict=True)])
        return _flat(outside.gradient(inner, variables, unconnected_gradients="zero"))

    return product


def _forward(loss: Callable[[list[Any]], Any], point: list[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    def product(v: np.ndarray) -> np.ndarray:
        variables = [tf.Variable(each) for each in point]
        with tf.autodiff.ForwardAccumulator(variables, _pieces(v, point)) as accumulator:
            with tf.GradientTape() as tape:
                value = loss([tf.convert_to_tensor(each) for each in variables])
            gradients = tape.gradient(value, variables, unconnected_gradients="zero")
        return _flat(accumulator.jvp(gradients, unconnected_gradients="zero"))

    return product


def _flat(tensors: list[Any]) -> np.ndarray:
    return np.concatenate([np.ravel(tf.convert_to_tensor(t).numpy()) for t in tensors])


def _pieces(v: np.ndarray, point: list[np.ndarray]) -> list[Any]:
    ends = np.cumsum([each.size for each in point])[:-1]
    return [tf.constant(piece.reshape(each.shape)) for piece, each in zip(np.split(v, ends), point, strict=True)]


def _applied(function: Callable[[Any], Any], point: list[float]) -> Row:
    return (lambda p: outer(function(tf.convert_to_tensor(p[0])))), [np.array(point)]


def _layer(make: Callable[[], Any], shape: tuple[int, ...]) -> Row:
    layer, x = make(), (0.1 + np.sin(1.0 + np.arange(np.prod(shape))) / 1.3).reshape(shape)
    layer(tf.constant(x))
    rest = layer.non_trainable_variables

    def loss(p: list[Any]) -> Any:
        *weights, inputs = map(tf.convert_to_tensor, p)
        return outer(layer.stateless_call(weights, rest, inputs)[0])

    return loss, [*(weight.numpy() for weight in layer.trainable_variables), x]


def _two(function: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda p: function(p[:3], p[3:])


def _matrix(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda p: function(tf.reshape(p, (3, 3)))


def _symmetric(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    shift = tf.constant(np.diag([4.0, 7.0, 11.0]))
    return lambda p: function((m := tf.reshape(p, (3, 3))) + tf.transpose(m) + shift)


def _loss(name: str, target: list[list[float]], to: Callable[[Any], Any] = tf.identity) -> Callable[[Any], Any]:
    return lambda p: getattr(keras.losses, name)(dtype="float64")(
        tf.constant(np.array(target)), to(tf.reshape(p, (2, 3)))
    )


SEGMENTS = tf.constant([0, 0, 1, 1, 2, 2])
ONE_ZERO = [0.0, 0.3, 0.5, -0.7, 0.2, 0.9]
ONE_HOT = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
MIXED = [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]
ELEMENTWISE: dict[str, tuple[Callable[[Any], Any], dict[str, list[float]]]] = {
    **{
        f"tf.math.{name}": (getattr(tf.math, name), points(zero=ZERO))
        for name in (
            "exp",
            "expm1",
            "sin",
            "cos",
            "tanh",
            "atan",
            "sinh",
            "cosh",
            "asinh",
            "square",
            "abs",
            "sign",
            "erf",
            "erfc",
            "bessel_i0e",
            "bessel_i1e",
            "softplus",
            "sigmoid",
            "round",
            "floor",
        )
    },
    **{
        f"tf.math.special.{name}": (getattr(tf.math.special, name), points(POSITIVE))
        for name in (
            "bessel_j0",
            "bessel_j1",
            "bessel_y0",
            "bessel_i0",
            "bessel_i1",
            "bessel_k0",
            "dawsn",
            "expint",
            "fresnel_sin",
            "spence",
        )
    },
    **{
        f"keras.activations.{name}": (getattr(keras.activations, name), points(zero=ZERO, saturated=FAR))
        for name in (
            "relu",
            "relu6",
            "elu",
            "selu",
            "gelu",
            "silu",
            "mish",
            "softplus",
            "softsign",
            "hard_sigmoid",
            "hard_silu",
            "leaky_relu",
            "log_sigmoid",
            "tanh_shrink",
            "hard_tanh",
            "celu",
            "squareplus",
            "sparse_plus",
            "soft_shrink",
        )
        if hasattr(keras.activations, name)
    },
    **{
        f"tf.math.{name}": (getattr(tf.math, name), points(POSITIVE))
        for name in ("log", "sqrt", "rsqrt", "reciprocal", "digamma", "lgamma")
    },
    **{
        f"tf.math.{name}": (getattr(tf.math, name), points(INSIDE, zero=ZERO))
        for name in ("asin", "acos", "atanh", "tan")
    },
    "tf.math.erfinv": (tf.math.erfinv, points(INSIDE, zero=ZERO)),
    "tf.math.ndtri": (tf.math.ndtri, points([0.3, 0.7, 0.2, 0.4, 0.6, 0.1])),
    "tf.math.acosh": (tf.math.acosh, points(ABOVE_ONE)),
    "tf.math.log1p": (tf.math.log1p, points(POSITIVE)),
}
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], dict[str, list[float]]]] = {
    "tf.reduce_prod": (tf.reduce_prod, points(zero=ZERO, one_zero=ONE_ZERO, zeros=ZEROS)),
    "tf.math.cumprod": (tf.math.cumprod, points(zero=ZERO, one_zero=ONE_ZERO)),
    "tf.math.cumulative_logsumexp": (tf.math.cumulative_logsumexp, points()),
    "tf.cumsum": (tf.cumsum, points()),
    "tf.reduce_max": (tf.reduce_max, points(ties=TIES)),
    "tf.reduce_min": (tf.reduce_min, points(ties=TIES)),
    "tf.sort": (tf.sort, points(ties=TIES)),
    "tf.math.top_k": (lambda p: tf.math.top_k(p, 3)[0], points(ties=TIES)),
    "tf.math.reduce_std": (tf.math.reduce_std, points(ties=[0.5] * 6)),
    "tf.math.reduce_variance": (tf.math.reduce_variance, points(ties=[0.5] * 6)),
    "tf.reduce_logsumexp": (tf.reduce_logsumexp, points(zeros=ZEROS, saturated=FAR)),
    "tf.math.reduce_euclidean_norm": (tf.math.reduce_euclidean_norm, points(zeros=ZEROS)),
    "tf.norm": (tf.norm, points(zeros=ZEROS)),
    "tf.math.l2_normalize": (tf.math.l2_normalize, points(zero=ZERO)),
    "tf.nn.softmax": (tf.nn.softmax, points(zeros=ZEROS, saturated=FAR)),
    "tf.nn.log_softmax": (tf.nn.log_softmax, points(zeros=ZEROS, saturated=FAR)),
    "tf.atan2": (_two(tf.atan2), points(zero=[0.0, 0.3, 0.5, 1.0, 0.0, -0.4])),
    "tf.maximum": (_two(tf.maximum), points(equal=EQUAL)),
    "tf.math.squared_difference": (_two(tf.math.squared_difference), points(equal=EQUAL)),
    "tf.math.divide_no_nan": (_two(tf.math.divide_no_nan), points(zero=[1.0, 0.3, 0.5, 0.0, 0.6, -0.4])),
    "tf.math.multiply_no_nan": (_two(tf.math.multiply_no_nan), points(zero=[1.0, 0.3, 0.5, 0.0, 0.6, -0.4])),
    "tf.math.xlogy": (_two(lambda a, b: tf.math.xlogy(a, b**2)), points(zero=[0.0, 0.3, 0.5, 1.0, 0.6, -0.4])),
    "tf.math.xlog1py": (_two(lambda a, b: tf.math.xlog1py(a, b**2)), points(zero=[0.0, 0.3, 0.5, 1.0, 0.6, -0.4])),
    "tf.math.xdivy": (_two(lambda a, b: tf.math.xdivy(a, b)), points(zero=[0.0, 0.3, 0.5, 1.0, 0.6, -0.4])),
    "tf.math.floormod": (_two(tf.math.floormod), points()),
    "tf.pow, both": (_two(lambda a, b: tf.pow(a**2 + 0.1, b)), points()),
    "tf.pow, exponent 2": (lambda p: tf.pow(p, 2.0), points(zero=ZERO)),
    "tf.pow, exponent 3": (lambda p: tf.pow(p, 3.0), points(zero=ZERO)),
    "tf.pow, base zero": (
        _two(lambda a, b: tf.pow(a, b**2 + 3.0)),
        points(POSITIVE, zero=[0.0, 0.3, 0.5, 1.0, 0.6, 0.4]),
    ),
    "tf.where": (lambda p: tf.where(p > 0, p**2, tf.sin(p)), points(zero=ZERO)),
    "tf.clip_by_value": (lambda p: tf.clip_by_value(p, -1.0, 1.0) ** 2, points(edge=[1.0, -1.0, 0.3, 2.0, -3.0, 0.1])),
    "tf.clip_by_norm": (lambda p: tf.clip_by_norm(p, 1.0), points(zeros=ZEROS)),
    "tf.gather": (lambda p: tf.gather(p, [0, 0, 3]) ** 2, points()),
    "tf.nn.embedding_lookup": (lambda p: tf.nn.embedding_lookup(tf.reshape(p, (3, 2)), [0, 1, 1]) ** 2, points()),
    "tf.math.segment_sum": (lambda p: tf.math.segment_sum(p**2, SEGMENTS), points()),
    "tf.math.segment_mean": (lambda p: tf.math.segment_mean(p**2, SEGMENTS), points()),
    "tf.math.segment_prod": (lambda p: tf.math.segment_prod(p, SEGMENTS), points(zero=ZERO)),
    "tf.math.segment_max": (lambda p: tf.math.segment_max(p, SEGMENTS), points()),
    "tf.math.unsorted_segment_prod": (lambda p: tf.math.unsorted_segment_prod(p, SEGMENTS, 3), points(zero=ZERO)),
    "tf.math.unsorted_segment_max": (lambda p: tf.math.unsorted_segment_max(p, SEGMENTS, 3), points(ties=TIES)),
    "tf.tensor_scatter_nd_add": (
        lambda p: tf.tensor_scatter_nd_add(tf.zeros(4, tf.float64), [[0], [1], [1], [2], [2], [3]], p**2),
        points(),
    ),
    "tf.tensor_scatter_nd_max": (
        lambda p: tf.tensor_scatter_nd_max(tf.zeros(4, tf.float64), [[0], [1], [1], [2], [2], [3]], p),
        points(),
    ),
    "tf.math.polygamma": (lambda p: tf.math.polygamma(tf.ones_like(p), p), points(POSITIVE)),
    "tf.math.zeta": (lambda p: tf.math.zeta(2.5 * tf.ones_like(p), p), points(POSITIVE)),
    "tf.math.lbeta": (tf.math.lbeta, points(POSITIVE)),
    "tf.math.betainc": (
        lambda p: tf.math.betainc(1.5 * tf.ones_like(p), 2.5 * tf.ones_like(p), p),
        points([0.3, 0.7, 0.2, 0.4, 0.6, 0.1]),
    ),
    "tf.math.igamma": (lambda p: tf.math.igamma(1.5 * tf.ones_like(p), p), points(POSITIVE)),
    "tf.math.igamma, shape": (lambda p: tf.math.igamma(p, 1.5 * tf.ones_like(p)), points(POSITIVE)),
    "tf.matmul": (_matrix(lambda m: m @ m), points(SQUARE)),
    "tf.linalg.inv": (_matrix(tf.linalg.inv), points(SQUARE)),
    "tf.linalg.pinv": (_matrix(tf.linalg.pinv), points(SQUARE)),
    "tf.linalg.det": (_matrix(tf.linalg.det), points(SQUARE, singular=SINGULAR, zeros=[0.0] * 9)),
    "tf.linalg.slogdet": (_matrix(tf.linalg.slogdet), points(SQUARE)),
    "tf.linalg.solve": (_matrix(lambda m: tf.linalg.solve(m, m[:, :1] ** 2)), points(SQUARE)),
    "tf.linalg.lstsq": (_matrix(lambda m: tf.linalg.lstsq(m, m[:, :1] ** 2)), points(SQUARE)),
    "tf.linalg.triangular_solve": (_matrix(lambda m: tf.linalg.triangular_solve(m, m[:, :1])), points(SQUARE)),
    "tf.linalg.cholesky": (_symmetric(tf.linalg.cholesky), points(SQUARE)),
    "tf.linalg.logdet": (_symmetric(tf.linalg.logdet), points(SQUARE)),
    "tf.linalg.eigvalsh": (_symmetric(tf.linalg.eigvalsh), points(SQUARE)),
    "tf.linalg.eigh": (_symmetric(lambda m: tf.linalg.eigh(m)[1] ** 2), points(SQUARE)),
    "tf.linalg.svd, values": (_matrix(lambda m: tf.linalg.svd(m, compute_uv=False)), points(SQUARE)),
    "tf.linalg.qr": (_matrix(lambda m: tuple(tf.linalg.qr(m))), points(SQUARE)),
    "tf.linalg.expm": (_matrix(tf.linalg.expm), points(SQUARE)),
    "tf.linalg.sqrtm": (_symmetric(tf.linalg.sqrtm), points(SQUARE)),
    "tf.linalg.trace": (_matrix(lambda m: tf.linalg.trace(m @ m)), points(SQUARE)),
    "tf.einsum": (_matrix(lambda m: tf.einsum("ij,jk,ki->", m, m, m)), points(SQUARE)),
    "tf.signal.rfft": (tf.signal.rfft, points()),
    "tf.signal.fft": (lambda p: tf.signal.fft(tf.cast(p, tf.complex128)), points()),
    "tf.complex, abs": (_two(lambda a, b: tf.abs(tf.complex(a, b))), points(zero=[0.0, 0.3, 0.5, 0.0, 0.0, -0.4])),
    "tf.while_loop": (
        lambda p: tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, tf.sin(x) * x), (tf.constant(0), p))[1],
        points(),
    ),
    "tf.scan": (lambda p: tf.scan(lambda c, x: tf.tanh(c + x), p), points()),
    "tf.cond": (lambda p: tf.cond(p[0] > 0, lambda: tf.sin(p), lambda: tf.cos(p)), points()),
    "tf.map_fn": (lambda p: tf.map_fn(lambda x: x**3, p), points()),
    "tf.recompute_grad": (lambda p: tf.recompute_grad(lambda q: tf.sin(q) ** 2)(p), points()),
    "tf.stop_gradient": (lambda p: tf.stop_gradient(p) * p**2, points()),
    "tf.nn.softmax_cross_entropy_with_logits": (
        lambda p: tf.nn.softmax_cross_entropy_with_logits(tf.constant(np.array(MIXED)), tf.reshape(p, (2, 3))),
        points(zeros=ZEROS, saturated=FAR),
    ),
    "tf.nn.sparse_softmax_cross_entropy_with_logits": (
        lambda p: tf.nn.sparse_softmax_cross_entropy_with_logits(tf.constant([0, 2]), tf.reshape(p, (2, 3))),
        points(zeros=ZEROS, saturated=FAR),
    ),
    "tf.nn.sigmoid_cross_entropy_with_logits": (
        lambda p: tf.nn.sigmoid_cross_entropy_with_logits(tf.constant(np.array(MIXED)), tf.reshape(p, (2, 3))),
        points(zeros=ZEROS, saturated=FAR),
    ),
    "tf.nn.l2_loss": (tf.nn.l2_loss, points(zero=ZERO)),
    "tf.nn.conv2d": (
        lambda p: tf.nn.conv2d(tf.reshape(p[:4], (1, 2, 2, 1)), tf.reshape(p[4:], (1, 2, 1, 1)), 1, "SAME"),
        points(),
    ),
    "tf.nn.max_pool1d": (lambda p: tf.nn.max_pool1d(tf.reshape(p**2, (1, 6, 1)), 2, 2, "VALID"), points(ties=TIES)),
    "tf.nn.avg_pool1d": (lambda p: tf.nn.avg_pool1d(tf.reshape(p**2, (1, 6, 1)), 2, 2, "VALID"), points()),
    "tf.nn.local_response_normalization": (
        lambda p: tf.cast(
            tf.nn.local_response_normalization(tf.cast(tf.reshape(p, (1, 1, 1, 6)), tf.float32)), tf.float64
        ),
        points(),
    ),
    "tf.image.resize": (
        lambda p: tf.cast(tf.image.resize(tf.reshape(p**2, (1, 2, 3, 1)), (4, 6)), tf.float64),
        points(),
    ),
    **{
        f"keras.losses.{name}": (_loss(name, MIXED), points())
        for name in (
            "MeanSquaredError",
            "MeanAbsoluteError",
            "Huber",
            "LogCosh",
            "MeanSquaredLogarithmicError",
            "Poisson",
            "Hinge",
            "SquaredHinge",
            "CosineSimilarity",
            "Tversky",
            "Dice",
        )
    },
    "keras.losses.CategoricalCrossentropy": (
        _loss("CategoricalCrossentropy", ONE_HOT, tf.nn.softmax),
        points(zeros=ZEROS, saturated=FAR),
    ),
    "keras.losses.BinaryCrossentropy": (
        _loss("BinaryCrossentropy", MIXED, tf.sigmoid),
        points(zeros=ZEROS, saturated=FAR),
    ),
    "keras.losses.BinaryFocalCrossentropy": (
        _loss("BinaryFocalCrossentropy", ONE_HOT, tf.sigmoid),
        points(zeros=ZEROS),
    ),
    "keras.losses.KLDivergence": (_loss("KLDivergence", MIXED, tf.nn.softmax), points(zeros=ZEROS)),
    "empty slice": (lambda p: tf.reduce_prod(p[:0]) * tf.reduce_sum(p) ** 2, points()),
}


def _keras(name: str, *arguments: Any, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(keras.layers, name)(*arguments, **options, dtype="float64")


LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "keras Dense": (_keras("Dense", 2, activation="tanh"), (2, 3)),
    "keras EinsumDense": (_keras("EinsumDense", "bi,ij->bj", 2), (2, 3)),
    "keras Conv1D": (_keras("Conv1D", 2, 2), (1, 4, 2)),
    "keras Conv2D": (_keras("Conv2D", 2, 2), (1, 3, 3, 2)),
    "keras DepthwiseConv2D": (_keras("DepthwiseConv2D", 2), (1, 3, 3, 2)),
    "keras SeparableConv2D": (_keras("SeparableConv2D", 2, 2), (1, 3, 3, 2)),
    "keras Conv2DTranspose": (_keras("Conv2DTranspose", 2, 2), (1, 3, 3, 2)),
    "keras LayerNormalization": (_keras("LayerNormalization"), (2, 6)),
    "keras GroupNormalization": (_keras("GroupNormalization", 2), (1, 3, 4)),
    "keras BatchNormalization": (_keras("BatchNormalization"), (4, 3)),
    "keras UnitNormalization": (_keras("UnitNormalization"), (2, 3)),
    "keras SimpleRNN": (_keras("SimpleRNN", 2), (1, 4, 3)),
    "keras LSTM": (_keras("LSTM", 2), (1, 4, 3)),
    "keras GRU": (_keras("GRU", 2), (1, 4, 3)),
    "keras PReLU": (_keras("PReLU"), (2, 3)),
    "keras Softmax": (_keras("Softmax"), (2, 3)),
    "keras GlobalMaxPooling1D": (_keras("GlobalMaxPooling1D"), (1, 4, 3)),
    "keras UpSampling2D": (_keras("UpSampling2D", 2), (1, 2, 3, 1)),
}
