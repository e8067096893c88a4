"""Memory: what is free, what constants hold, and how torch says that there is none left."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

__all__ = ["free_memory", "held_bytes", "is_borrowed", "is_out_of_memory"]


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def held_bytes(constants: Sequence[Tensor], owned: Sequence[Tensor]) -> int:
    """Return the memory behind the constants that would be free without them."""
    known = {tensor.untyped_storage().data_ptr() for tensor in owned}
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in constants}
    return sum(size for pointer, size in held.items() if pointer not in known)


def is_borrowed(tensor: Tensor) -> bool:
    """Return whether a tensor's memory is not torch's own, so that others may write to it, as NumPy does."""
    return tensor.layout == torch.strided and not tensor.untyped_storage().resizable()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device's memory is used up."""
    # On a CPU it is a plain RuntimeError.
    return isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
