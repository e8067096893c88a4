"""Memory: what this process may still take, and what all operators of an objective may hold together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

__all__ = ["MemoryBudget", "free_host_memory", "in_bytes"]

_CONTROL_GROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def free_host_memory() -> int:
    """Return the bytes of host memory that this process may still take.

    That is the least of what is free on the machine, in the process's control groups (a container's limit, which the
    machine's free memory does not show) and within its own limits (``ulimit -v`` and ``-d``).
    """
    # Takes as long to import as many a call of this library, most of which hold nothing large.
    import psutil

    return max(0, min([int(psutil.virtual_memory().available), *_left_by_limits(), *_left_by_control_groups()]))


def in_bytes(size: float) -> str:
    """Return a number of bytes for people: three digits and a unit, by thousands."""
    unit = 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000.0, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"


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

    def __getstate__(self) -> dict[str, Any]:
        # A copy has its own holders, which hold nothing yet.
        return {"limit": self._limit, "free": self._free}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["limit"], state["free"])  # type: ignore[misc]

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


def _left_by_limits() -> Iterator[int]:
    """Yield what the process's own limits leave of its address space and of its data."""
    try:
        import resource
    except ImportError:  # Windows has no such limits.
        return
    import psutil

    used = psutil.Process().memory_info()
    for name, size in (("RLIMIT_AS", used.vms), ("RLIMIT_DATA", getattr(used, "data", 0))):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - size


def _left_by_control_groups() -> Iterator[int]:
    """Yield what each control group of the process that has a limit leaves, in both versions of their file system."""
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:  # Only Linux has control groups.
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            names = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
            )
            root = _CONTROL_GROUPS / controllers
            group = root / path.lstrip("/")
            # Inside a container the path is often that on the machine, and only the root is there.
            for folder in dict.fromkeys((group, *(above for above in group.parents if root in above.parents), root)):
                yield from _left_in_group(folder, *names)


def _left_in_group(folder: Path, limit: str, usage: str) -> Iterator[int]:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max":
            return
        used = int((folder / usage).read_text())
        pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # No such folder, or nothing that limits.
        return
    # What is only kept of files is given up for whoever asks.
    cached = int(pages.get("total_inactive_file", pages.get("inactive_file", 0)))
    yield int(most) - used + cached
