"""refuse_different_gradients: processes that hold the same part of a parameter must find the same gradient in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from specop.errors import InvalidInputError
from specop_torch.groups import Group

__all__ = ["refuse_different_gradients"]


def refuse_different_gradients(
    group: Group, parts: Mapping[str, Tensor | None], first: Sequence[int], precision: float
) -> None:
    """Raise InvalidInputError unless those who hold the same part of a parameter have the same gradient in it.

    A layer that tensor parallelism leaves whole, and that sees some tokens only in each process, has a part of its
    gradient in each: nothing adds these up, in training neither.

    Parameters
    ----------
    group : Group
    parts : mapping from names to Tensor or None
        Parts of the gradient that this process has, by parameter; None for nothing.
    first : sequence of int
        Number of the first process that holds the same part, for each parameter.
    precision : float
        Rounding error of the gradient.
    """
    # Two numbers of each tell them apart, without a tensor on its way.
    own = {name: (0.0, 0.0) if part is None else _measured(part) for name, part in parts.items()}
    told = group.exchange(own)
    floor = 0.01 * max(length for one in told for length, _ in one.values())
    off = [
        name
        for (name, (length, along)), process in zip(own.items(), first, strict=True)
        for other_length, other_along in [told[process][name]]
        if max(abs(length - other_length), abs(along - other_along)) > precision**0.5 * max(length, floor)
    ]
    for number, names in enumerate(group.exchange(off)):
        if names:
            raise InvalidInputError(
                f"process {number} of {group.count} finds another gradient in {len(names)} parameters, such as "
                f"{names[0]!r}, than another one that holds the same part of them: each has a part of a sum that "
                f"nothing adds up, as where a norm sees some of the tokens only. Let the plan of parallelize_module "
                f"name these layers, SequenceParallel() for a norm."
            )


def _measured(part: Tensor) -> tuple[float, float]:
    flat = part.detach().double().reshape(-1)
    return float(flat.norm()), float(flat @ torch.arange(len(flat), dtype=flat.dtype, device=flat.device).cos())
