"""refuse_shared_memory: parameters of which a step changes more entries than derivatives know of."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from specop.errors import InvalidInputError

__all__ = ["refuse_shared_memory"]

# Devices that hold nothing, or that compute later.
_WITHOUT_ADDRESSES = ("meta", "lazy", "xla")


def refuse_shared_memory(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Raise InvalidInputError if two parameters, or two entries of one, lie in the same memory.

    A weight that is tied by ``b.data = a.data``, a view of another one or an expanded one: derivatives count each entry
    by itself, while whatever moves one moves the others.

    Parameters
    ----------
    parameters : iterable of (str, Tensor)
        Names and parameters, each tensor once.
    """
    together: dict[Any, list[tuple[int, int, str, Tensor]]] = {}
    for name, one in parameters:
        if one.layout is not torch.strided or one.device.type in _WITHOUT_ADDRESSES or not one.numel():
            continue
        reach = 1 + sum((size - 1) * step for size, step in zip(one.shape, one.stride(), strict=True))
        if reach < one.numel():
            raise InvalidInputError(
                f"the parameter {name!r} of shape {tuple(one.shape)} has entries in the same memory, as expand() makes "
                f"them: derivatives count each by itself, while a step moves all. Hold one entry for them as the "
                f"parameter, and expand it in the forward pass."
            )
        start = int(one.storage_offset()) * one.element_size()
        place = start, start + int(reach) * one.element_size(), name, one
        together.setdefault((one.device, one.untyped_storage().data_ptr()), []).append(place)
    for places in together.values():
        places.sort(key=lambda place: place[:2])
        for (_, end, name, one), (start, _, other_name, other) in combinations(places, 2):
            if start < end and _overlap(one, other):
                raise InvalidInputError(
                    f"the parameters {name!r} and {other_name!r} lie in the same memory: derivatives count each by "
                    f"itself, while a step of one moves the other. Let both modules hold the same parameter, as by "
                    f"b.weight = a.weight and not by b.weight.data = a.weight.data, which then counts once; or give "
                    f"one memory of its own by .data.clone()."
                )


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage have an entry in common; columns of one matrix have not."""
    if one.element_size() != other.element_size():
        return True
    size = one.untyped_storage().nbytes() // one.element_size()
    seen = torch.zeros(size, dtype=torch.bool)
    seen.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(seen.as_strided(other.shape, other.stride(), other.storage_offset()).any())
