"""Functions of torch and losses, each with ordinary and special points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from points import ABOVE_ONE, EQUAL, FAR, INSIDE, POSITIVE, SINGULAR, SQUARE, TIES, ZERO, ZEROS, points

__all__ = ["ELEMENTWISE", "FUNCTIONS"]

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
