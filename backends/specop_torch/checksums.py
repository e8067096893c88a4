"""Checksums that tell whether tensors have changed."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any
from zlib import crc32

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from specop.objectives.checksums import WORDS, checksum, weights
from specop_torch.memory import is_unwatched
from specop_torch.structures import parts

__all__ = ["checksums", "content", "weighted_sum"]

_INTEGERS = {16: torch.int32, 8: torch.int32, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


def checksums(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Return checksums of tensors' bits: one for each on the host, of those elsewhere one for all small ones."""
    found: list[int] = []
    sums: dict[torch.device, list[Tensor]] = {}
    small: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in (part for whole in tensors for part in parts(whole)):
        if tensor.is_cpu:
            found.append(checksum(_on_host(tensor)))
        elif tensor.numel() > WORDS:
            sums.setdefault(tensor.device, []).append(weighted_sum(_words(tensor)))
        else:
            words = _words(tensor)
            small.setdefault((words.device, words.dtype), []).append(words)
    # A model has many small tensors, and a few operations on each would take longer than a product.
    for (device, _), together in small.items():
        sums.setdefault(device, []).append(weighted_sum(torch.cat(together)))
    # One transfer for each device: it waits for all that was computed before.
    return (*found, *(number for parts in sums.values() for number in torch.stack(parts).tolist()))


def content(tensor: Tensor) -> tuple[int, ...]:
    """Return checksums of a tensor on the host, not computed anew while its version counter stands and tells of writes.

    A look by way of NumPy ends that: from then on NumPy may write, and only bits tell whether it did.
    """
    if is_unwatched(tensor):
        return _sums_of_copies(tensor)
    known: tuple[int, tuple[int, ...]] | None = _KNOWN.get(tensor)
    if known is None or known[0] != tensor._version:
        known = tensor._version, _sums_of_copies(tensor)
        _KNOWN[tensor] = known
    return known[1]


def _sums_of_copies(tensor: Tensor) -> tuple[int, ...]:
    # NumPy is given copies: its look would itself end the watch.
    copies = ((piece.clone() for piece in _words(part).split(WORDS)) for part in parts(tensor))
    return tuple(functools.reduce(lambda value, copy: crc32(copy.numpy().data, value), part, 0) for part in copies)


_KNOWN = WeakTensorKeyDictionary()


def weighted_sum(words: Tensor) -> Tensor:
    """Return a sum of integers of at most 32 bits that depends on their order, in bounded memory."""
    factors = _weights(words.device)
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for chunk in words.split(WORDS):
        total = total * 0x100000001B3 + torch.sum(chunk.to(torch.int64) * factors[: chunk.numel()])
    return total


def _on_host(tensor: Tensor) -> NDArray[Any]:
    try:
        return tensor.numpy(force=True)
    except TypeError:  # NumPy does not know all dtypes
        return tensor.detach().view(_INTEGERS[tensor.element_size()]).numpy()


def _words(tensor: Tensor) -> Tensor:
    flat = tensor.detach().resolve_conj().reshape(-1)
    if flat.stride(0) != 1:
        # Of a single entry, too, which counts as contiguous whatever its stride.
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(_INTEGERS[flat.element_size()])


@functools.cache
def _weights(device: torch.device) -> Tensor:
    return torch.from_numpy(weights()).to(device)
