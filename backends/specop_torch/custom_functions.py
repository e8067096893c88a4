"""Whether derivatives that users define have derivatives in turn: those of custom functions in an autograd graph.

A fused loss often computes its gradient in the forward pass, where nothing is recorded. Differentiated again, that
gradient counts as a constant, and the second derivative lacks a part without a word.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from specop.errors import InvalidInputError
from specop_torch.graph import nodes

__all__ = ["check_custom_functions"]

# Two differences that agree to the first share are believed; a derivative that is off by the second one is wrong.
_AGREEMENT, _DEVIATION = 0.02, 0.1
# Roundings of a value that a difference may have, and the ratio of the two steps.
_ROUNDINGS, _RATIO = 20.0, 4.0

_REMEDY = (
    "Save the inputs in forward, and compute the gradient from them in backward by differentiable operations; or use "
    "plain operations instead of the fused function."
)

# What is wrong with a class: with what its backward does to incoming gradients, and with how it depends on arguments.
_verdicts: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()


def check_custom_functions(value: Tensor, compute: Callable[[], Any], *, curved: bool) -> None:
    """Raise InvalidInputError if a custom function behind a value cannot be differentiated twice.

    Once for each class of functions, one of them is called on its own, with the arguments that it has in the model:
    derivatives of its backward along a direction must be what differences give. Differences of the whole loss would say
    less, because in single precision they cross the kinks of activations.

    Parameters
    ----------
    value : Tensor
        Tensor whose graph is searched for functions of the user's.
    compute : callable
        Computes the value again.
    curved : bool
        Whether second derivatives in parameters are wanted. A Jacobian needs those in incoming gradients only.
    """
    # Torch's own are taken to be right, and so are those of this package.
    found = _custom_functions(value)
    own = {
        function: needs
        for function, needs in found.items()
        if not function.__module__.startswith(("torch.", "specop_torch."))
    }
    unknown = {function: needs for function, needs in own.items() if function not in _verdicts}
    if unknown:
        with torch.random.fork_rng(devices=[value.device] if value.device.type == "cuda" else []):
            with _recording(unknown) as calls, torch.no_grad():
                compute()
            with torch.enable_grad():
                _verdicts.update({call.function: _verdict(call) for call in calls})
    for function in own:
        pulled, bent = _verdicts.get(function, ("", ""))
        if pulled or (curved and bent):
            raise InvalidInputError(f"{_name(function)} cannot be differentiated twice: {pulled or bent} {_REMEDY}")


def _custom_functions(value: Tensor) -> dict[Any, list[bool]]:
    """Return the subclasses of torch.autograd.Function in a graph, and which arguments need gradients in any call."""
    found: dict[Any, list[bool]] = {}
    for node in nodes(value):
        custom = getattr(node, "_forward_cls", None)
        if custom is not None:
            pairs = itertools.zip_longest(found.get(custom, []), node.needs_input_grad, fillvalue=False)
            found[custom] = [known or new for known, new in pairs]
    return found


def _name(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


@dataclass
class _Call:
    """What a function was called with; arguments in which it is differentiated are copies."""

    function: Any
    arguments: list[Any]
    moving: list[int]

    def outputs(self, points: Sequence[Tensor]) -> list[Tensor]:
        """Call the function with these values of the moving arguments, and return what depends on them."""
        arguments = list(self.arguments)
        for i, point in zip(self.moving, points, strict=True):
            # Not the leaf itself, which the function may not write into.
            arguments[i] = point.clone()
        result = self.function.apply(*arguments)
        several = result if isinstance(result, tuple) else (result,)
        return [output for output in several if isinstance(output, Tensor) and output.requires_grad]


@contextlib.contextmanager
def _recording(functions: Mapping[Any, Sequence[bool]]) -> Iterator[list[_Call]]:
    """Note the first call of each function; the graph does not keep what it was given."""
    calls: list[_Call] = []
    own = {function: function.__dict__.get("forward") for function in functions}
    try:
        for function, needs in functions.items():
            function.forward = staticmethod(_noting(function, needs, calls))
        yield calls
    finally:
        for function, forward in own.items():
            if forward is None:
                del function.forward
            else:
                function.forward = forward


def _noting(function: Any, needs: Sequence[bool], calls: list[_Call]) -> Callable[..., Any]:
    forward = function.forward
    takes_context = function.setup_context is torch.autograd.Function.setup_context

    @functools.wraps(forward)
    def noting(*given: Any) -> Any:
        if not any(call.function is function for call in calls):
            arguments = list(given[1:] if takes_context else given)
            moving = [i for i, (item, needed) in enumerate(zip(arguments, needs, strict=False)) if needed]
            # Optional ones may be left out in this call.
            moving = [i for i in moving if isinstance(arguments[i], Tensor) and arguments[i].is_floating_point()]
            for i in moving:
                arguments[i] = arguments[i].detach().clone()
            if moving:
                calls.append(_Call(function, arguments, moving))
        return forward(*given)

    return noting


def _verdict(call: _Call) -> tuple[str, str]:
    """Return what is wrong with derivatives of G'd, for the gradient G = J'c in the arguments and a direction d.

    G is linear in the cotangents c, so that c times the derivative in them is G'd again. In the arguments it is S d,
    with the second derivative S of c'f, which is symmetric: differences of G along d give the same.
    """
    generator = torch.Generator().manual_seed(0)
    points = [call.arguments[i] for i in call.moving]
    scales = [float(point.square().mean().sqrt()) or 1.0 for point in points]
    direction = [scale * _normal(point, generator) for scale, point in zip(scales, points, strict=True)]
    leaves = [point.clone().requires_grad_() for point in points]
    outputs = call.outputs(leaves)
    if not outputs:
        return "", ""
    cotangents = [_normal(output, generator).requires_grad_() for output in outputs]
    gradient = _derivative(outputs, leaves, cotangents, create_graph=True)
    along = [(g * d).sum() for g, d in zip(gradient, direction, strict=True) if g.requires_grad]
    epsilon = max(torch.finfo(point.dtype).eps for point in points)

    expected = float(_joined(gradient) @ _joined(direction))
    again = float(_joined(_derivative(along, cotangents)) @ _joined(cotangents))
    noise = _ROUNDINGS * epsilon * float(_joined(gradient).norm() * _joined(direction).norm())
    pulled = ""
    if abs(again - expected) > _DEVIATION * abs(expected) + noise:
        pulled = (
            f"as a function of the incoming gradient its backward is linear, but differentiated it gives {again:.3g} "
            f"where it is {expected:.3g}."
        )

    def at(step: float) -> Tensor:
        shifted = [(p + step * d).requires_grad_() for p, d in zip(points, direction, strict=True)]
        return _joined(_derivative(call.outputs(shifted), shifted, cotangents), scales)

    found = _joined(_derivative(along, leaves), scales)
    step = epsilon ** (1 / 3)
    coarse, fine = ((at(h) - at(-h)) / (2 * h) for h in (step, step / _RATIO))
    noise = _ROUNDINGS * epsilon * float(_joined(gradient, scales).norm()) * _RATIO / step
    size = max(float(coarse.norm()), float(fine.norm()))
    error = float((found - fine).norm())
    # Where differences disagree with each other there are kinks, or randomness, and nothing can be said.
    believed = float((coarse - fine).norm()) <= _AGREEMENT * size + noise
    bent = ""
    if believed and error > _DEVIATION * max(size, float(found.norm())) + noise:
        bent = (
            f"along a direction, autograd gives a second derivative of length {float(found.norm()):.3g}, and "
            f"differences of gradients one of length {size:.3g}. What forward has computed counts as a constant in "
            f"backward."
        )
    return pulled, bent


def _derivative(
    values: Sequence[Tensor], points: Sequence[Tensor], weights: Sequence[Tensor] | None = None, **options: bool
) -> list[Tensor]:
    """Return what autograd gives, with zeros where nothing depends on a point."""
    if not values:
        return [torch.zeros_like(point) for point in points]
    keep = {"retain_graph": True, "allow_unused": True, **options}
    found = torch.autograd.grad(list(values), list(points), weights, **keep)
    return [torch.zeros_like(point) if part is None else part for part, point in zip(found, points, strict=True)]


def _joined(parts: Sequence[Tensor], scales: Sequence[float] | None = None) -> Tensor:
    """Return all entries in one vector in double precision, each part times its scale."""
    factors = [1.0] * len(parts) if scales is None else scales
    return torch.cat([f * part.detach().double().reshape(-1) for f, part in zip(factors, parts, strict=True)])


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
