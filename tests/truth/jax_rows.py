"""Functions of jax.numpy, jax.scipy, jax.nn and jax.lax, and flax layers, each at ordinary and at special points."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

import specop
from judge import Truth, curvature, noting, verdict
from points import ABOVE_ONE, EQUAL, FAR, INSIDE, POSITIVE, SINGULAR, SQUARE, TIES, ZERO, ZEROS, points

__all__ = ["judged", "rows"]

Row = tuple[Callable[[Any], Any], Any]


def rows() -> Iterator[tuple[str, str, Callable[[], Row]]]:
    """Yield (operation, point, function that makes a function of a pytree and the point)."""
    for name, (function, at) in {**ELEMENTWISE, **FUNCTIONS}.items():
        for label, point in at.items():
            yield name, label, functools.partial(_applied, function, point)
    for name, (make, shape) in LAYERS.items():
        yield name, "ordinary", functools.partial(_layer, make, shape)


def judged(make: Callable[[], Row]) -> tuple[Truth | None, dict[str, str]]:
    """Return the truth about one row, and each library's verdict."""
    loss, point = make()
    flat, unflatten = jax.flatten_util.ravel_pytree(point)
    value = jax.jit(lambda theta: loss(unflatten(theta)))
    truth = curvature(lambda theta: float(value(theta)), np.array(flat))
    found = {}
    for name, tool in {
        "specop": _specop,
        "jax.jvp of jax.grad": _forward_over_reverse,
        "jax.hessian": _hessian,
    }.items():
        found[name] = verdict(lambda v, tool=tool: tool(loss, point)(v), len(flat), truth)
    return truth, found


def outer(out: Any) -> jax.Array:
    """Return a loss with first and second derivatives in every output."""
    total = jnp.zeros(())
    for each in jax.tree.leaves(out):
        if jnp.iscomplexobj(each):
            each = jnp.stack([each.real, each.imag])
        if jnp.issubdtype(each.dtype, jnp.floating):
            weights = jnp.cos(1.0 + jnp.arange(each.size))
            total += weights @ each.ravel() + 0.5 * (1.2 + weights) @ each.ravel() ** 2
    return total


def _specop(loss: Callable[[Any], Any], point: Any) -> Callable[[np.ndarray], np.ndarray]:
    H = specop.objective(lambda p, batch: loss(p) + 0.0 * batch.sum(), params=point, data=jnp.zeros(1)).hessian()
    return lambda v: noting(H, np.asarray(H @ jnp.asarray(v)))


def _forward_over_reverse(loss: Callable[[Any], Any], point: Any) -> Callable[[np.ndarray], np.ndarray]:
    flat, unflatten = jax.flatten_util.ravel_pytree(point)
    gradient = jax.grad(lambda theta: loss(unflatten(theta)))
    return jax.jit(lambda v: jax.jvp(gradient, (flat,), (v,))[1])


def _hessian(loss: Callable[[Any], Any], point: Any) -> Callable[[np.ndarray], np.ndarray]:
    flat, unflatten = jax.flatten_util.ravel_pytree(point)
    return lambda v: jax.hessian(lambda theta: loss(unflatten(theta)))(flat) @ v


def _applied(function: Callable[[Any], Any], point: list[float]) -> Row:
    return (lambda p: outer(function(p))), jnp.array(point)


def _layer(make: Callable[[Any], Any], shape: tuple[int, ...]) -> Row:
    from flax import nnx

    layer = make(nnx.Rngs(0))
    graph, weights, rest = nnx.split(layer, nnx.Param, ...)
    x = (0.1 + np.sin(1.0 + np.arange(np.prod(shape))) / 1.3).reshape(shape)
    pure = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), nnx.to_pure_dict(weights))

    def loss(p: Any) -> Any:
        state = nnx.clone(weights) if hasattr(nnx, "clone") else weights
        nnx.replace_by_pure_dict(state, p["weights"])
        return outer(nnx.merge(graph, state, rest)(p["x"]))

    return loss, {"weights": pure, "x": jnp.asarray(x)}


def _two(function: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda p: function(p[:3], p[3:])


def _matrix(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda p: function(p.reshape(3, 3))


def _symmetric(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda p: function((m := p.reshape(3, 3)) + m.T + jnp.diag(jnp.array([4.0, 7.0, 11.0])))


ELEMENTWISE: dict[str, tuple[Callable[[Any], Any], dict[str, list[float]]]] = {
    **{
        f"jnp.{name}": (getattr(jnp, name), points(zero=ZERO))
        for name in (
            "exp",
            "exp2",
            "expm1",
            "sin",
            "cos",
            "tanh",
            "arctan",
            "sinh",
            "cosh",
            "arcsinh",
            "sinc",
            "square",
            "abs",
            "sign",
            "i0",
            "cbrt",
            "round",
            "floor",
        )
    },
    **{
        f"jax.nn.{name}": (getattr(jax.nn, name), points(zero=ZERO, saturated=FAR))
        for name in (
            "relu",
            "relu6",
            "sigmoid",
            "softplus",
            "silu",
            "gelu",
            "elu",
            "celu",
            "selu",
            "leaky_relu",
            "log_sigmoid",
            "soft_sign",
            "hard_tanh",
            "hard_sigmoid",
            "hard_swish",
            "mish",
            "squareplus",
        )
    },
    **{
        f"special.{name}": (getattr(special, name), points(zero=ZERO))
        for name in ("erf", "erfc", "i0e", "i1", "i1e", "ndtr", "log_ndtr", "expit")
    },
    **{
        f"special.{name}": (getattr(special, name), points(POSITIVE))
        for name in ("digamma", "gammaln", "gamma", "spence", "expi", "exp1")
    },
    **{
        f"special.{name}": (getattr(special, name), points([0.3, 0.7, 0.2, 0.4, 0.6, 0.1]))
        for name in ("logit", "ndtri", "entr")
    },
    **{
        f"jnp.{name}": (getattr(jnp, name), points(POSITIVE)) for name in ("log", "log2", "log10", "sqrt", "reciprocal")
    },
    **{
        f"jnp.{name}": (getattr(jnp, name), points(INSIDE, zero=ZERO))
        for name in ("arcsin", "arccos", "arctanh", "tan")
    },
    "special.erfinv": (special.erfinv, points(INSIDE, zero=ZERO)),
    "jnp.arccosh": (jnp.arccosh, points(ABOVE_ONE)),
    "jnp.log1p": (jnp.log1p, points(POSITIVE)),
    "jax.lax.rsqrt": (jax.lax.rsqrt, points(POSITIVE)),
}
LABELS = np.array([0, 2])
ONE_ZERO = [0.0, 0.3, 0.5, -0.7, 0.2, 0.9]
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], dict[str, list[float]]]] = {
    "jnp.prod": (jnp.prod, points(zero=ZERO, one_zero=ONE_ZERO, zeros=ZEROS)),
    "jnp.cumprod": (jnp.cumprod, points(zero=ZERO)),
    "jnp.cumsum": (jnp.cumsum, points()),
    "jnp.max": (jnp.max, points(ties=TIES)),
    "jnp.min": (jnp.min, points(ties=TIES)),
    "jnp.sort": (jnp.sort, points(ties=TIES)),
    "jnp.median": (jnp.median, points(ties=TIES)),
    "jnp.percentile": (lambda p: jnp.percentile(p, 30.0), points()),
    "jax.lax.top_k": (lambda p: jax.lax.top_k(p, 3)[0], points(ties=TIES)),
    "jax.lax.cummax": (jax.lax.cummax, points(ties=TIES)),
    "jnp.std": (jnp.std, points(ties=[0.5] * 6)),
    "jnp.var": (jnp.var, points(ties=[0.5] * 6)),
    "jnp.linalg.norm": (jnp.linalg.norm, points(zeros=ZEROS)),
    "jax.nn.softmax": (jax.nn.softmax, points(zeros=ZEROS, saturated=FAR)),
    "jax.nn.log_softmax": (jax.nn.log_softmax, points(zeros=ZEROS, saturated=FAR)),
    "jax.nn.logsumexp": (jax.nn.logsumexp, points(zeros=ZEROS, saturated=FAR)),
    "jax.nn.standardize": (jax.nn.standardize, points()),
    "jax.nn.glu": (jax.nn.glu, points()),
    "jax.nn.dot_product_attention": (
        lambda p: jax.nn.dot_product_attention(*3 * [p.reshape(1, 3, 1, 2)]),
        points(zeros=ZEROS),
    ),
    "jnp.arctan2": (_two(jnp.arctan2), points(zero=[0.0, 0.3, 0.5, 1.0, 0.0, -0.4])),
    "jnp.hypot": (_two(jnp.hypot), points(zero=[0.0, 0.3, 0.5, 1.0, 0.0, -0.4])),
    "jnp.logaddexp": (_two(jnp.logaddexp), points(equal=EQUAL, saturated=FAR)),
    "jnp.maximum": (_two(jnp.maximum), points(equal=EQUAL)),
    "jnp.fmod": (_two(jnp.fmod), points()),
    "jnp.power, both": (_two(lambda a, b: (a**2 + 0.1) ** b), points()),
    "jnp.power, exponent 2": (lambda p: p**2, points(zero=ZERO)),
    "jnp.power, exponent 3.0": (lambda p: p**3.0, points(POSITIVE, zero=[0.0, 0.3, 0.0, 0.7, 0.0, 0.9])),
    "jnp.where": (lambda p: jnp.where(p > 0, p**2, jnp.sin(p)), points(zero=ZERO)),
    "jnp.where, hidden inf": (lambda p: jnp.where(p > 0, jnp.log(p), p), points(zero=ZERO)),
    "jnp.clip": (lambda p: jnp.clip(p, -1.0, 1.0) ** 2, points(edge=[1.0, -1.0, 0.3, 2.0, -3.0, 0.1])),
    "jnp.take": (lambda p: jnp.take(p, np.array([0, 0, 3])) ** 2, points()),
    "segment_sum": (lambda p: jax.ops.segment_sum(p**2, np.array([0, 0, 1, 1, 2, 2]), 3), points()),
    "segment_prod": (lambda p: jax.ops.segment_prod(p, np.array([0, 0, 1, 1, 2, 2]), 3), points(zero=ZERO)),
    "segment_max": (lambda p: jax.ops.segment_max(p, np.array([0, 0, 1, 1, 2, 2]), 3), points()),
    "scatter add": (lambda p: jnp.zeros(4).at[np.array([0, 1, 1, 2, 2, 3])].add(p**2), points()),
    "scatter multiply": (lambda p: jnp.ones(6).at[np.arange(6)].multiply(p), points(zero=ZERO)),
    "special.polygamma": (lambda p: special.polygamma(1, p), points(POSITIVE)),
    "special.betaln": (_two(special.betaln), points(POSITIVE)),
    "special.betainc": (lambda p: special.betainc(1.5, 2.5, p), points([0.3, 0.7, 0.2, 0.4, 0.6, 0.1])),
    "special.gammainc": (lambda p: special.gammainc(1.5, p), points(POSITIVE)),
    "special.gammainc, shape": (lambda p: special.gammainc(p, 1.5), points(POSITIVE)),
    "special.zeta": (lambda p: special.zeta(2.5, p), points(POSITIVE)),
    "special.xlogy": (_two(lambda a, b: special.xlogy(a, b**2)), points(zero=[0.0, 0.3, 0.5, 1.0, 0.6, -0.4])),
    "special.xlog1py": (_two(lambda a, b: special.xlog1py(a, b**2)), points()),
    "special.kl_div": (_two(lambda a, b: special.kl_div(a**2 + 0.1, b**2 + 0.1)), points()),
    "matmul": (_matrix(lambda m: m @ m), points(SQUARE)),
    "jnp.linalg.inv": (_matrix(jnp.linalg.inv), points(SQUARE)),
    "jnp.linalg.pinv": (_matrix(jnp.linalg.pinv), points(SQUARE)),
    "jnp.linalg.det": (_matrix(jnp.linalg.det), points(SQUARE, singular=SINGULAR, zeros=[0.0] * 9)),
    "jnp.linalg.slogdet": (_matrix(jnp.linalg.slogdet), points(SQUARE)),
    "jnp.linalg.solve": (_matrix(lambda m: jnp.linalg.solve(m, m[:, 0] ** 2)), points(SQUARE)),
    "jnp.linalg.lstsq": (_matrix(lambda m: jnp.linalg.lstsq(m, m[:, 0] ** 2)[0]), points(SQUARE)),
    "jnp.linalg.cholesky": (_symmetric(jnp.linalg.cholesky), points(SQUARE)),
    "jnp.linalg.eigvalsh": (_symmetric(jnp.linalg.eigvalsh), points(SQUARE)),
    "jnp.linalg.eigh": (_symmetric(lambda m: jnp.linalg.eigh(m)[1] ** 2), points(SQUARE)),
    "jnp.linalg.svdvals": (_matrix(lambda m: jnp.linalg.svd(m, compute_uv=False)), points(SQUARE)),
    "jnp.linalg.qr": (_matrix(jnp.linalg.qr), points(SQUARE)),
    "jnp.linalg.matrix_power": (_matrix(lambda m: jnp.linalg.matrix_power(m, 3)), points(SQUARE)),
    "jax.scipy.linalg.expm": (_matrix(jax.scipy.linalg.expm), points(SQUARE, zeros=[0.0] * 9)),
    "jax.scipy.linalg.lu": (_matrix(jax.scipy.linalg.lu), points(SQUARE)),
    "jnp.fft.fft": (jnp.fft.fft, points()),
    "jnp.fft.irfft": (lambda p: jnp.fft.irfft(jnp.fft.rfft(p) ** 2, 6), points()),
    "complex abs": (_two(lambda a, b: jnp.abs(a + 1j * b)), points(zero=[0.0, 0.3, 0.5, 0.0, 0.0, -0.4])),
    "jnp.convolve": (_two(jnp.convolve), points()),
    "jnp.interp": (lambda p: jnp.interp(p, np.linspace(-3, 3, 7), np.arange(7.0) ** 2), points()),
    "jax.lax.scan": (lambda p: jax.lax.scan(lambda c, x: (jnp.tanh(c + x), c * x), 0.1, p), points()),
    "jax.lax.cond": (lambda p: jax.lax.cond(p[0] > 0, jnp.sin, jnp.cos, p), points()),
    "jax.lax.map": (lambda p: jax.lax.map(lambda x: x**3, p), points(zero=ZERO)),
    "jax.lax.fori_loop": (lambda p: jax.lax.fori_loop(0, 3, lambda _, x: jnp.sin(x) * x, p), points()),
    "jax.checkpoint": (lambda p: jax.checkpoint(lambda q: jnp.sin(q) ** 2)(p), points()),
    "jax.lax.stop_gradient": (lambda p: jax.lax.stop_gradient(p) * p**2, points()),
    "softmax cross entropy": (
        lambda p: -jnp.take_along_axis(jax.nn.log_softmax(p.reshape(2, 3)), LABELS[:, None], 1),
        points(zeros=ZEROS, saturated=FAR),
    ),
    "empty slice": (lambda p: p[:0].prod() * p.sum() ** 2, points()),
}


def _nnx(name: str, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
    def make(rngs: Any) -> Any:
        from flax import nnx

        return getattr(nnx, name)(*arguments, **options, param_dtype=jnp.float64, rngs=rngs)

    return make


LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "nnx.Linear": (_nnx("Linear", 3, 2), (2, 3)),
    "nnx.Conv": (_nnx("Conv", 2, 2, (2,)), (1, 4, 2)),
    "nnx.ConvTranspose": (_nnx("ConvTranspose", 2, 2, (2,)), (1, 4, 2)),
    "nnx.LayerNorm": (_nnx("LayerNorm", 6), (2, 6)),
    "nnx.RMSNorm": (_nnx("RMSNorm", 6), (2, 6)),
    "nnx.GroupNorm": (_nnx("GroupNorm", 4, 2), (1, 3, 4)),
    "nnx.BatchNorm, evaluation": (_nnx("BatchNorm", 3, use_running_average=True), (4, 3)),
    "nnx.MultiHeadAttention": (_nnx("MultiHeadAttention", 2, 4, decode=False), (1, 3, 4)),
    "nnx.LSTMCell in nnx.RNN": (lambda rngs: _recurrent("LSTMCell", rngs), (1, 4, 3)),
    "nnx.GRUCell in nnx.RNN": (lambda rngs: _recurrent("GRUCell", rngs), (1, 4, 3)),
}


def _recurrent(name: str, rngs: Any) -> Any:
    from flax import nnx

    class FromZero(nnx.Module):
        def __init__(self) -> None:
            self.rnn = nnx.RNN(getattr(nnx, name)(3, 2, param_dtype=jnp.float64, rngs=rngs))

        def __call__(self, x: jax.Array) -> Any:
            zero = jnp.zeros((1, 2))
            return self.rnn(x, initial_carry=(zero, zero) if name == "LSTMCell" else zero)

    return FromZero()
