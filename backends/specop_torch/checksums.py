"""Checksums that tell whether tensors have changed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["checksum"]

_CHUNK = 1 << 18


def checksum(tensor: Tensor) -> Tensor:
    """Order-sensitive checksum of a tensor's bits, on its device, in bounded memory."""
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
    flat = tensor.detach().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    words = flat.view(torch.uint8 if flat.dtype == torch.bool else bits[flat.element_size()])
    # Odd multipliers are invertible modulo 2**64: a change of one word always changes the sum.
    weights = torch.arange(1, 2 * min(_CHUNK, max(words.numel(), 1)), 2, device=tensor.device) * 0x9E3779B1
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for chunk in words.split(_CHUNK):
        total = total * 0x100000001B3 + torch.sum(chunk.to(torch.int64) * weights[: chunk.numel()])
    return total
