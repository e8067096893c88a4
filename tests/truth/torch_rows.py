"""Layers, activations, losses and functions of torch, each at ordinary and at special points."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import specop
from judge import Truth, curvature, noting, verdict
from points import ABOVE_ONE, EQUAL, FAR, INSIDE, POSITIVE, SINGULAR, SQUARE, TIES, ZERO, ZEROS, points

__all__ = ["judged", "rows"]


class Applied(nn.Module):
    """A layer applied to a parameter, and a smooth function of what comes out."""

    def __init__(self, layer: Callable[[torch.Tensor], Any], point: Any) -> None:
        super().__init__()
        self.layer = layer
        self.point = nn.Parameter(torch.tensor(np.array(point), dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return outer(self.layer(self.point)) + 0.0 * inputs.sum()


def outer(out: Any) -> torch.Tensor:
    """Return a loss with first and second derivatives in every output."""
    total = torch.zeros((), dtype=torch.float64)
    for each in out if isinstance(out, tuple) else (out,):
        if isinstance(each, tuple):
            total = total + outer(each)
        elif each.is_floating_point() or each.is_complex():
            flat = torch.view_as_real(each).reshape(-1) if each.is_complex() else each.reshape(-1)
            weights = torch.cos(1.0 + torch.arange(len(flat), dtype=torch.float64))
            total = total + (weights * flat).sum() + 0.5 * ((1.2 + weights) * flat**2).sum()
    return total


def rows() -> Iterator[tuple[str, str, Callable[[], nn.Module]]]:
    """Yield (operation, point, function that makes the module)."""
    for name, at in ELEMENTWISE.items():
        for label, point in at.items():
            yield name, label, functools.partial(Applied, _function(name), point)
    for name, (function, at) in FUNCTIONS.items():
        for label, point in at.items():
            yield name, label, functools.partial(Applied, function, point)
    for name, (layer, shape) in LAYERS.items():
        yield name, "ordinary", functools.partial(_layer, layer, shape)
    for name, (layer, shape) in LAYERS_IN_EVALUATION.items():
        yield f"{name}, evaluation", "ordinary", lambda layer=layer, shape=shape: _layer(layer, shape).eval()


def truth_of(module: nn.Module) -> tuple[Truth | None, int]:
    """Return the second derivatives of a module's loss, and the number of its parameters."""
    parameters = list(module.parameters())
    theta = torch.nn.utils.parameters_to_vector(parameters).detach().numpy().copy()

    state = copy.deepcopy(dict(module.named_buffers()))

    def loss(point: np.ndarray) -> float:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(torch.from_numpy(point), parameters)
            value = float(module(torch.zeros(1, dtype=torch.float64)))
            # A layer that updates itself is a function of the parameters as it was found.
            for name, buffer in module.named_buffers():
                buffer.copy_(state[name])
        return value

    return curvature(loss, theta), len(theta)


def tools() -> dict[str, Callable[[nn.Module], Callable[[np.ndarray], np.ndarray]]]:
    """Return the libraries at hand: each maps a module to its products with the Hessian."""
    found: dict[str, Any] = {"specop": _specop, "torch.autograd": _autograd, "torch.func": _func}
    try:
        import curvlinops  # noqa: F401
    except ImportError:
        pass
    else:
        found["curvlinops"] = _curvlinops
    try:
        import hessian_eigenthings  # noqa: F401
    except ImportError:
        pass
    else:
        found["hessian-eigenthings"] = _eigenthings
    return found


def judged(make: Callable[[], nn.Module]) -> tuple[Truth | None, dict[str, str]]:
    """Return the truth about one row, and each library's verdict."""
    torch.manual_seed(0)
    truth, n = truth_of(make())
    found = {}
    for name, tool in tools().items():
        torch.manual_seed(0)
        module = make()
        found[name] = verdict(lambda v, tool=tool, module=module: tool(module)(v), n, truth)
    return truth, found


def _specop(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    data = [(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))]
    objective = specop.objective(module, lambda out, _: out, data)
    H = objective.hessian()
    return lambda v: noting(H, (H @ torch.from_numpy(v)).numpy())


def _autograd(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(module(torch.zeros(1, dtype=torch.float64)), parameters, create_graph=True)

    def product(v: np.ndarray) -> np.ndarray:
        pieces = _pieces(v, parameters)
        inner = sum((g * p).sum() for g, p in zip(gradients, pieces, strict=True))
        found = torch.autograd.grad(inner, parameters, retain_graph=True, allow_unused=True)
        zeros = [torch.zeros_like(p) if f is None else f for f, p in zip(found, parameters, strict=True)]
        return torch.cat([z.reshape(-1) for z in zeros]).numpy()

    return product


def _func(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    parameters = dict(module.named_parameters())

    def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(module, p, (torch.zeros(1, dtype=torch.float64),))

    def product(v: np.ndarray) -> np.ndarray:
        tangents = dict(zip(parameters, _pieces(v, list(parameters.values())), strict=True))
        detached = {name: p.detach() for name, p in parameters.items()}
        _, found = torch.func.jvp(torch.func.grad(loss), (detached,), (tangents,))
        return torch.cat([found[name].reshape(-1) for name in parameters]).detach().numpy()

    return product


def _curvlinops(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    from curvlinops import HessianLinearOperator

    data = [(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))]
    H = HessianLinearOperator(module, _Identity(), list(module.parameters()), data)
    return lambda v: (H @ torch.from_numpy(v)).detach().numpy()


def _eigenthings(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    from hessian_eigenthings import HessianOperator

    data = [(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))]
    H = HessianOperator(module, data, lambda model, batch: model(batch[0]))
    return lambda v: H.matvec(torch.from_numpy(v)).detach().numpy()


class _Identity(nn.Module):
    reduction = "sum"

    def forward(self, out: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return out


def _pieces(v: np.ndarray, parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    split = torch.split(torch.from_numpy(v), [p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(split, parameters, strict=True)]


def _function(name: str) -> Callable[[torch.Tensor], Any]:
    for space in (torch, F, torch.special):
        if hasattr(space, name):
            return getattr(space, name)
    raise AttributeError(name)


def _layer(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    layer = make().double()
    count = int(np.prod(shape))
    return Applied(layer, (0.1 + np.sin(1.0 + np.arange(count)) / 1.3).reshape(shape))


ELEMENTWISE = {
    **{
        name: points(zero=ZERO, saturated=FAR)
        for name in (
            "sin",
            "cos",
            "tanh",
            "sigmoid",
            "atan",
            "erf",
            "erfc",
            "softplus",
            "gelu",
            "silu",
            "mish",
            "elu",
            "celu",
            "selu",
            "logsigmoid",
            "softsign",
            "tanhshrink",
            "sinc",
            "expm1",
            "asinh",
            "square",
            "log_ndtr",
            "ndtr",
            "leaky_relu",
            "relu6",
            "hardswish",
            "hardtanh",
            "hardsigmoid",
            "softshrink",
            "hardshrink",
        )
    },
    **{
        name: points(zero=ZERO)
        for name in (
            "exp",
            "exp2",
            "cosh",
            "sinh",
            "abs",
            "sign",
            "relu",
            "i0",
            "i0e",
            "i1",
            "i1e",
            "bessel_j0",
            "bessel_j1",
            "erfcx",
        )
    },
    **{
        name: points(POSITIVE)
        for name in (
            "log2",
            "log10",
            "digamma",
            "lgamma",
            "reciprocal",
            "rsqrt",
            "exp2",
        )
    },
    **{name: points(INSIDE, zero=ZERO) for name in ("asin", "acos", "atanh", "tan", "erfinv")},
    **{name: points([0.3, 0.7, 0.2, 0.4, 0.6, 0.1]) for name in ("logit", "ndtri", "entr")},
    "log": points(POSITIVE),
    "log1p": points(POSITIVE, zero=[0.0, 0.3, 0.0, 0.7, 0.0, 0.9]),
    "sqrt": points(POSITIVE),
    "acosh": points(ABOVE_ONE),
    "frac": points(),
    "round": points(),
    "floor": points(),
}


def _two(function: Callable[..., Any]) -> Callable[[torch.Tensor], Any]:
    return lambda p: function(p[:3], p[3:])


def _matrix(function: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    return lambda p: function(p.reshape(3, 3))


def _symmetric(function: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    return lambda p: function((m := p.reshape(3, 3)) + m.T + torch.diag(torch.tensor([4.0, 7.0, 11.0]).double()))


LABELS = torch.tensor([0, 2])
TARGET = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]).double()
SIGNS = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]]).double()


def _criterion(make: Callable[[], nn.Module], target: torch.Tensor, **special: list[float]) -> tuple[Any, Any]:
    return (lambda p, make=make: make()(p.reshape(2, 3), target)), points(**special)


FUNCTIONS: dict[str, tuple[Callable[[torch.Tensor], Any], dict[str, list[float]]]] = {
    "sum": (torch.sum, points(zero=ZERO)),
    "mean": (torch.mean, points()),
    "prod": (torch.prod, points(zero=ZERO, one_zero=[0.0, 0.3, 0.5, -0.7, 0.2, 0.9], zeros=ZEROS)),
    "cumprod": (lambda p: torch.cumprod(p, 0), points(zero=ZERO)),
    "cumsum": (lambda p: torch.cumsum(p, 0), points()),
    "logcumsumexp": (lambda p: torch.logcumsumexp(p, 0), points(saturated=FAR)),
    "logsumexp": (lambda p: torch.logsumexp(p, 0), points(zeros=ZEROS, saturated=FAR)),
    "softmax": (lambda p: torch.softmax(p, 0), points(zeros=ZEROS, saturated=FAR)),
    "log_softmax, dim": (lambda p: torch.log_softmax(p, 0), points(zeros=ZEROS, saturated=FAR)),
    "max": (torch.max, points(ties=TIES)),
    "amax": (torch.amax, points(ties=TIES)),
    "min": (torch.min, points(ties=TIES)),
    "median": (torch.median, points(ties=TIES)),
    "sort": (torch.sort, points(ties=TIES)),
    "topk": (lambda p: torch.topk(p, 3), points(ties=TIES)),
    "cummax": (lambda p: torch.cummax(p, 0), points(ties=TIES)),
    "std": (torch.std, points(ties=[0.5] * 6)),
    "var": (torch.var, points(ties=[0.5] * 6)),
    "norm": (torch.linalg.vector_norm, points(zeros=ZEROS)),
    "norm, ord 1": (lambda p: torch.linalg.vector_norm(p, 1), points(zero=ZERO)),
    "norm, ord 3": (lambda p: torch.linalg.vector_norm(p, 3), points(zero=ZERO)),
    "norm, ord inf": (lambda p: torch.linalg.vector_norm(p, torch.inf), points(ties=TIES)),
    "normalize": (lambda p: F.normalize(p, dim=0), points(zero=ZERO)),
    "cosine_similarity": (
        _two(lambda a, b: F.cosine_similarity(a, b, 0)),
        points(zero=[0.0, 0.0, 0.0, 1.0, 0.4, -0.3]),
    ),
    "pairwise_distance": (_two(F.pairwise_distance), points(equal=EQUAL)),
    "cdist": (lambda p: torch.cdist(p.reshape(2, 3), p.reshape(2, 3) + 1.0), points()),
    "pdist": (lambda p: F.pdist(p.reshape(2, 3)), points()),
    "dist": (_two(torch.dist), points(equal=EQUAL)),
    "atan2": (_two(torch.atan2), points(zero=[0.0, 0.3, 0.5, 1.0, 0.0, -0.4])),
    "hypot": (_two(torch.hypot), points(zero=[0.0, 0.3, 0.5, 1.0, 0.0, -0.4])),
    "logaddexp": (_two(torch.logaddexp), points(equal=EQUAL, saturated=FAR)),
    "maximum": (_two(torch.maximum), points(equal=EQUAL)),
    "fmod": (_two(torch.fmod), points()),
    "remainder": (_two(torch.remainder), points()),
    "copysign": (_two(torch.copysign), points()),
    "xlogy": (_two(lambda a, b: torch.xlogy(a, b**2)), points(zero=[0.0, 0.3, 0.5, 1.0, 0.6, -0.4])),
    "pow, exponent 2": (lambda p: p**2, points(zero=ZERO)),
    "pow, exponent 3": (lambda p: p**3, points(zero=ZERO)),
    "pow, exponent 0": (lambda p: p**0, points(zero=ZERO)),
    "pow, both": (_two(lambda a, b: (a**2 + 0.1) ** b), points()),
    "float_power": (lambda p: torch.float_power(p, 2), points(zero=ZERO)),
    "div": (_two(torch.div), points()),
    "lerp": (_two(lambda a, b: torch.lerp(a, b, a)), points()),
    "where": (lambda p: torch.where(p > 0, p**2, p.sin()), points(zero=ZERO)),
    "where, hidden inf": (lambda p: torch.where(p > 0, torch.log(p), p), points(zero=ZERO)),
    "clamp": (lambda p: torch.clamp(p, -1.0, 1.0) ** 2, points(edge=[1.0, -1.0, 0.3, 2.0, -3.0, 0.1])),
    "heaviside": (lambda p: torch.heaviside(p.detach(), p.detach()) * p**2, points()),
    "index_select": (lambda p: torch.index_select(p, 0, torch.tensor([0, 0, 3])) ** 2, points()),
    "gather": (lambda p: torch.gather(p, 0, torch.tensor([1, 1, 5])) ** 3, points()),
    "scatter_add": (lambda p: torch.zeros(3).double().scatter_add(0, torch.tensor([0, 1, 1, 2, 2, 2]), p**2), points()),
    "index_put": (
        lambda p: torch.zeros(8).double().index_put((torch.tensor([0, 1, 2, 3, 3, 4]),), p**2, True),
        points(),
    ),
    "scatter_reduce, prod": (
        lambda p: torch.ones(2).double().scatter_reduce(0, torch.tensor([0, 0, 0, 1, 1, 1]), p, "prod"),
        points(zero=ZERO),
    ),
    "scatter_reduce, mean": (
        lambda p: torch.ones(2).double().scatter_reduce(0, torch.tensor([0, 0, 0, 1, 1, 1]), p**2, "mean"),
        points(),
    ),
    "scatter_reduce, amax": (
        lambda p: torch.zeros(2).double().scatter_reduce(0, torch.tensor([0, 0, 0, 1, 1, 1]), p, "amax"),
        points(),
    ),
    "segment_reduce": (
        lambda p: torch.segment_reduce(p**2, "sum", lengths=torch.tensor([2, 4])),
        points(),
    ),
    "polygamma 1": (lambda p: torch.polygamma(1, p), points(POSITIVE)),
    "polygamma 2": (lambda p: torch.polygamma(2, p), points(POSITIVE)),
    "mvlgamma": (lambda p: torch.mvlgamma(p, 2), points(ABOVE_ONE)),
    "zeta": (lambda p: torch.special.zeta(torch.full_like(p, 2.5), p), points(POSITIVE)),
    "gammainc": (lambda p: torch.special.gammainc(torch.full_like(p, 1.5), p), points(POSITIVE)),
    "gammaincc": (lambda p: torch.special.gammaincc(torch.full_like(p, 1.5), p), points(POSITIVE)),
    "xlog1py": (_two(lambda a, b: torch.special.xlog1py(a, b**2)), points()),
    "matmul": (_matrix(lambda m: m @ m), points(SQUARE)),
    "matrix_exp": (_matrix(torch.matrix_exp), points(SQUARE, zeros=[0.0] * 9)),
    "matrix_power": (_matrix(lambda m: torch.linalg.matrix_power(m, 3)), points(SQUARE)),
    "inv": (_matrix(torch.linalg.inv), points(SQUARE)),
    "pinv": (_matrix(torch.linalg.pinv), points(SQUARE)),
    "det": (_matrix(torch.linalg.det), points(SQUARE, singular=SINGULAR, zeros=[0.0] * 9)),
    "slogdet": (_matrix(torch.linalg.slogdet), points(SQUARE)),
    "solve": (_matrix(lambda m: torch.linalg.solve(m, m[:, :1] ** 2)), points(SQUARE)),
    "lstsq": (_matrix(lambda m: torch.linalg.lstsq(m, m[:, :1] ** 2)[0]), points(SQUARE)),
    "cholesky": (_symmetric(torch.linalg.cholesky), points(SQUARE)),
    "cholesky_solve": (_symmetric(lambda m: torch.cholesky_solve(m[:, :1], torch.linalg.cholesky(m))), points(SQUARE)),
    "triangular_solve": (
        _matrix(lambda m: torch.linalg.solve_triangular(m.triu(), m[:, :1], upper=True)),
        points(SQUARE),
    ),
    "eigvalsh": (_symmetric(torch.linalg.eigvalsh), points(SQUARE)),
    "eigh": (_symmetric(lambda m: torch.linalg.eigh(m)[1] ** 2), points(SQUARE)),
    "eigvals": (_matrix(torch.linalg.eigvals), points(SQUARE)),
    "svdvals": (_matrix(torch.linalg.svdvals), points(SQUARE)),
    "qr": (_matrix(torch.linalg.qr), points(SQUARE)),
    "lu": (_matrix(lambda m: torch.linalg.lu(m)[1:]), points(SQUARE)),
    "matrix_norm": (
        _matrix(
            torch.linalg.matrix_norm,
        ),
        points(SQUARE),
    ),
    "trace": (_matrix(lambda m: torch.trace(m @ m)), points(SQUARE)),
    "einsum": (_matrix(lambda m: torch.einsum("ij,jk,ki->", m, m, m)), points(SQUARE)),
    "kron": (_matrix(lambda m: torch.kron(m, m)), points(SQUARE)),
    "cross": (_two(lambda a, b: torch.linalg.cross(a, b)), points()),
    "outer": (_two(torch.outer), points()),
    "fft": (torch.fft.fft, points()),
    "rfft": (torch.fft.rfft, points()),
    "irfft": (lambda p: torch.fft.irfft(torch.fft.rfft(p) ** 2, 6), points()),
    "complex abs": (_two(lambda a, b: torch.complex(a, b).abs()), points(zero=[0.0, 0.3, 0.5, 0.0, 0.0, -0.4])),
    "complex angle": (_two(lambda a, b: torch.complex(a, b).angle()), points()),
    "unfold": (lambda p: p.unfold(0, 3, 1) ** 2, points()),
    "conv1d": (lambda p: F.conv1d(p[:4].reshape(1, 1, 4), p[4:].reshape(1, 1, 2)), points()),
    "conv_transpose1d": (lambda p: F.conv_transpose1d(p[:4].reshape(1, 1, 4), p[4:].reshape(1, 1, 2)), points()),
    "grid_sample": (
        lambda p: F.grid_sample(torch.arange(9.0).double().reshape(1, 1, 3, 3) ** 2, (p / 4).reshape(1, 1, 3, 2)),
        points(),
    ),
    "interpolate, bilinear": (
        lambda p: F.interpolate((p**2).reshape(1, 1, 2, 3), scale_factor=2.0, mode="bilinear"),
        points(),
    ),
    "interpolate, bicubic": (
        lambda p: F.interpolate((p**2).reshape(1, 1, 2, 3), scale_factor=2.0, mode="bicubic"),
        points(),
    ),
    "scaled_dot_product_attention": (
        lambda p: F.scaled_dot_product_attention(*3 * [p.reshape(1, 1, 3, 2)]),
        points(zeros=ZEROS),
    ),
    "scaled_dot_product_attention, causal": (
        lambda p: F.scaled_dot_product_attention(*3 * [p.reshape(1, 1, 3, 2)], is_causal=True),
        points(),
    ),
    "layer_norm": (lambda p: F.layer_norm(p, (6,)), points(ties=[0.5] * 6)),
    "rms_norm": (lambda p: F.rms_norm(p, (6,)), points(zeros=ZEROS)),
    "group_norm": (lambda p: F.group_norm(p.reshape(1, 6, 1), 2), points()),
    "batch_norm, training": (lambda p: F.batch_norm(p.reshape(3, 2), None, None, training=True), points()),
    "instance_norm": (lambda p: F.instance_norm(p.reshape(1, 2, 3)), points()),
    "local_response_norm": (lambda p: F.local_response_norm(p.reshape(1, 6, 1), 2), points()),
    "glu": (lambda p: F.glu(p), points()),
    "gelu, tanh": (lambda p: F.gelu(p, approximate="tanh"), points(zero=ZERO, saturated=FAR)),
    "prelu": (lambda p: F.prelu(p[:5], p[5:]), points()),
    "rrelu, evaluation": (lambda p: F.rrelu(p), points()),
    "threshold": (lambda p: F.threshold(p, 0.1, 20.0), points()),
    "softmin": (lambda p: F.softmin(p, 0), points()),
    "max_pool1d": (lambda p: F.max_pool1d((p**2).reshape(1, 1, 6), 2), points(ties=TIES)),
    "max_pool2d": (lambda p: F.max_pool2d((p**2).reshape(1, 1, 2, 3), 2), points(ties=TIES)),
    "avg_pool1d": (lambda p: F.avg_pool1d((p**2).reshape(1, 1, 6), 2), points()),
    "lp_pool1d": (lambda p: F.lp_pool1d(p.reshape(1, 1, 6), 3.0, 2), points(POSITIVE)),
    "adaptive_avg_pool1d": (lambda p: F.adaptive_avg_pool1d((p**2).reshape(1, 1, 6), 4), points()),
    "adaptive_max_pool1d": (lambda p: F.adaptive_max_pool1d((p**2).reshape(1, 1, 6), 4), points()),
    "embedding_bag, weights of samples": (
        lambda p: F.embedding_bag(
            torch.tensor([0, 1, 1]), p.reshape(3, 2), torch.tensor([0, 2]), mode="sum", per_sample_weights=p[:3]
        ),
        points(),
    ),
    "embedding": (lambda p: F.embedding(torch.tensor([0, 1, 1]), p.reshape(3, 2)) ** 2, points()),
    "embedding, padding": (
        lambda p: F.embedding(torch.tensor([0, 1, 1]), p.reshape(3, 2), padding_idx=0) ** 2,
        points(),
    ),
    "checkpoint": (
        lambda p: torch.utils.checkpoint.checkpoint(lambda q: torch.sin(q) ** 2, p, use_reentrant=False),
        points(),
    ),
    "empty slice": (lambda p: p[:0].prod() * p.sum() ** 2, points()),
    "cross_entropy": (lambda p: F.cross_entropy(p.reshape(2, 3), LABELS), points(zeros=ZEROS, saturated=FAR)),
    "cross_entropy, smoothing": (
        lambda p: F.cross_entropy(p.reshape(2, 3), LABELS, label_smoothing=0.1),
        points(saturated=FAR),
    ),
    "cross_entropy, probabilities": (lambda p: F.cross_entropy(p.reshape(2, 3), TARGET), points()),
    "nll_loss": (lambda p: F.nll_loss(p.reshape(2, 3).log_softmax(1), LABELS), points()),
    "mse": _criterion(nn.MSELoss, TARGET),
    "l1": _criterion(nn.L1Loss, TARGET),
    "smooth_l1": _criterion(nn.SmoothL1Loss, TARGET),
    "huber": _criterion(nn.HuberLoss, TARGET),
    "bce with logits": _criterion(nn.BCEWithLogitsLoss, TARGET, zeros=ZEROS, saturated=FAR),
    "bce": (
        (lambda p: F.binary_cross_entropy(torch.sigmoid(p.reshape(2, 3)), TARGET)),
        points(zeros=ZEROS, saturated=FAR),
    ),
    "kl_div": ((lambda p: F.kl_div(p.reshape(2, 3).log_softmax(1), TARGET, reduction="batchmean")), points()),
    "poisson_nll": _criterion(nn.PoissonNLLLoss, TARGET),
    "gaussian_nll": (
        lambda p: F.gaussian_nll_loss(p.reshape(2, 3), TARGET, p.reshape(2, 3) ** 2 + 0.1),
        points(),
    ),
    "hinge_embedding": _criterion(nn.HingeEmbeddingLoss, SIGNS),
    "soft_margin": _criterion(nn.SoftMarginLoss, SIGNS, saturated=FAR),
    "multilabel_soft_margin": _criterion(nn.MultiLabelSoftMarginLoss, (SIGNS + 1) / 2),
    "multi_margin": _criterion(nn.MultiMarginLoss, LABELS),
    "margin_ranking": (_two(lambda a, b: F.margin_ranking_loss(a, b, SIGNS[0])), points()),
    "triplet_margin": (
        lambda p: F.triplet_margin_loss(p[:2].reshape(1, 2), p[2:4].reshape(1, 2), p[4:].reshape(1, 2)),
        points(),
    ),
    "cosine_embedding": (
        lambda p: F.cosine_embedding_loss(p[:3].reshape(1, 3), p[3:].reshape(1, 3), torch.ones(1).double()),
        points(),
    ),
    "ctc": (
        lambda p: F.ctc_loss(
            p.reshape(3, 1, 2).log_softmax(2), torch.tensor([[1]]), torch.tensor([3]), torch.tensor([1])
        ),
        points(),
    ),
    "stopped gradient": (lambda p: p.detach() * p**2, points()),
}

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(3, 2), (2, 3)),
    "Bilinear": (lambda: _Twice(nn.Bilinear(3, 3, 2)), (2, 3)),
    "Conv1d": (lambda: nn.Conv1d(2, 2, 2), (1, 2, 4)),
    "Conv2d": (lambda: nn.Conv2d(2, 2, 2), (1, 2, 3, 3)),
    "Conv2d, groups": (lambda: nn.Conv2d(2, 2, 2, groups=2), (1, 2, 3, 3)),
    "Conv2d, dilated": (lambda: nn.Conv2d(2, 2, 2, dilation=2), (1, 2, 4, 4)),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 2, 2), (1, 2, 3, 3)),
    "BatchNorm1d, training": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (4, 3)),
    "LayerNorm": (lambda: nn.LayerNorm(6), (2, 6)),
    "RMSNorm": (lambda: nn.RMSNorm(6), (2, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (1, 4, 3)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(2, affine=True), (1, 2, 4)),
    "PReLU": (lambda: nn.PReLU(), (2, 3)),
    "RNN": (lambda: nn.RNN(3, 2), (4, 1, 3)),
    "LSTM": (lambda: nn.LSTM(3, 2), (4, 1, 3)),
    "GRU": (lambda: nn.GRU(3, 2), (4, 1, 3)),
    "GRU, two layers, both ways": (lambda: nn.GRU(3, 2, num_layers=2, bidirectional=True), (4, 1, 3)),
    "LSTMCell": (lambda: nn.LSTMCell(3, 2), (1, 3)),
    "MultiheadAttention": (lambda: _Attention(), (3, 1, 4)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), (3, 1, 4)),
    "TransformerDecoderLayer": (lambda: _Twice(nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0)), (3, 1, 4)),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), (2, 3)),
    "orthogonal": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), (2, 3)),
    "spectral_norm, training": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), (2, 3)),
}
LAYERS_IN_EVALUATION: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (4, 3)),
    "Dropout": (lambda: nn.Dropout(0.5), (4, 3)),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), (2, 3)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (1, 3, 4)),
    "RReLU": (lambda: nn.RReLU(), (2, 3)),
}


class _Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x, x)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.attention(x, x, x, need_weights=False)[0]
