"""Memory: what is free, what constants hold, and how torch says that there is none left."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specop.arrays.memory import free_host_memory
from specop_torch.structures import parts

__all__ = ["free_memory", "held_bytes", "is_out_of_memory", "is_unwatched"]


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    if device.type == "cuda":
        # Torch keeps what tensors gave back, for the next ones.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return free_host_memory()


def held_bytes(constants: Sequence[Tensor], owned: Sequence[Tensor]) -> int:
    """Return the memory behind the constants that would be free without them."""
    known = {part.untyped_storage().data_ptr() for tensor in owned for part in parts(tensor)}
    storages = [part.untyped_storage() for tensor in constants for part in parts(tensor)]
    held = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for pointer, size in held.items() if pointer not in known)


def is_unwatched(tensor: Tensor) -> bool:
    """Return whether writes to a tensor may move no version counter of it."""
    # Of inference mode; a sparse one, whose parts have counters of their own; memory of NumPy, which writes to it.
    return tensor.is_inference() or tensor.layout != torch.strided or not tensor.untyped_storage().resizable()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device's memory is used up."""
    # On a CPU it is a plain RuntimeError.
    return isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
