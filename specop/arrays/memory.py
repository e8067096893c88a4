"""The memory that all operators of an objective may hold together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary

__all__ = ["MemoryBudget"]


class Holder(Protocol):
    """What holds memory that it can let go of and get again."""

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""

    def release(self) -> None:
        """Let go of them."""


class MemoryBudget:
    """Bytes for the data and the linearizations of one objective and of those derived from it.

    Linearizations that are needed push out those that were used least recently.

    Parameters
    ----------
    limit : int or None
        None for half of what is free on the device, and held already.
    free : callable
        Returns the bytes that are free on the device.
    """

    def __init__(self, limit: int | None, free: Callable[[], int]) -> None:
        self._limit = limit
        self._free = free
        # In the order of their last use. What nobody needs any more drops out by itself.
        self._holders: WeakKeyDictionary[Holder, None] = WeakKeyDictionary()
        self._reserved: WeakKeyDictionary[object, int] = WeakKeyDictionary()

    @property
    def total(self) -> int:
        """Bytes that may be held in all."""
        return (self._free() + self._held()) // 2 if self._limit is None else self._limit

    def room(self) -> int:
        """Return the bytes that may be taken without any being released."""
        return max(0, self.total - self._held())

    def reserve(self, owner: object, size: int) -> None:
        """Count bytes that an owner keeps for as long as it lives."""
        self._reserved[owner] = size

    def use(self, holder: Holder) -> None:
        """Note that a holder is at work: all others are released before it."""
        self._holders.pop(holder, None)
        self._holders[holder] = None

    def reach(self) -> int:
        """Return the bytes that a holder can have, if others are released for it."""
        return max(0, self.total - sum(self._reserved.values()))

    def leave(self, size: int, holder: Holder) -> None:
        """Release what was used least recently, until all holders but this one have at most so many bytes."""
        others = [other for other in self._holders if other is not holder]
        held = sum(other.held_bytes for other in others)
        for other in others:
            if held <= size:
                break
            held -= other.held_bytes
            other.release()

    def _held(self) -> int:
        return sum(self._reserved.values()) + sum(holder.held_bytes for holder in self._holders)
