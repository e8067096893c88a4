"""Reports of wrong nested forward derivatives, pytorch/pytorch issues 196700 and 196699: the right values."""

import torch

import specop
from reproductions.book import Row


def layer_norm(t):
    """-t / sqrt(1 + t^2), as a layer normalization of (t, 0)."""
    x = torch.stack([t, torch.zeros_like(t)]).reshape(1, 2)
    weight, bias = torch.tensor([1.0, 2.0], dtype=t.dtype), torch.zeros(2, dtype=t.dtype)
    return torch.nn.functional.layer_norm(x, [2], weight=weight, bias=bias, eps=0.25).sum()


def batch_norm(t):
    """A weighted sum of normalized parabolas in t."""
    x = torch.stack([(i + 1) * t + (i % 3 - 1) * t * t + i for i in range(8)]).reshape(2, 2, 2)
    weight, bias = torch.tensor([1.5, -0.5], dtype=t.dtype), torch.tensor([0.25, 1.0], dtype=t.dtype)
    y = torch.nn.functional.batch_norm(x, None, None, weight=weight, bias=bias, training=True, momentum=0.1, eps=0.25)
    return (y * torch.arange(1, 9, dtype=t.dtype).reshape(2, 2, 2)).sum()


def rows():
    """Second derivatives, as products of a Hessian with one parameter."""
    found = []
    for function, at, published in ((layer_norm, 0.7, 0.7749142079590942), (batch_norm, -6.0, -0.20703015646993195)):
        params = {"t": torch.tensor([at], dtype=torch.float64)}
        objective = specop.objective(
            lambda params, _, function=function: function(params["t"][0]), params=params, data=torch.zeros(1, 1)
        )
        value = (objective.hessian() @ torch.ones(1, dtype=torch.float64)).item()
        name = f"{function.__name__} at {at}"
        found.append(
            Row(name, repr(published), f"{value:.14f}", abs(value - published) < 1e-12 * abs(published) + 1e-13)
        )
    return found
