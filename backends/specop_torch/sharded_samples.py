"""SharedRows: gradients of samples that processes have in parts, as rows that they hold together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.tensor import DTensor

from specop_torch.groups import Group

__all__ = ["SharedRows"]


@dataclass(frozen=True)
class SharedRows:
    """What each sample of a batch adds to its gradient; samples are numbered process after process.

    Parameters
    ----------
    group : Group
    own : callable
        ``own(start, stop)``: rows of this process's samples, whole.
    share : float
        Times which they are parts of the gradient of all.
    counts : sequence of int
        Number of samples of each process.
    like : Tensor (0, n)
        Empty tensor of the rows' length, dtype and device.
    """

    group: Group
    own: Callable[[int, int], Tensor]
    share: float
    counts: Sequence[int]
    like: Tensor

    def __call__(self, start: int, stop: int) -> DTensor:
        """Return the rows of the samples from `start` to `stop`; those of a process are computed there."""
        sizes, first = [], 0
        ranges = []
        for count in self.counts:
            begin, end = (min(max(place - first, 0), count) for place in (start, stop))
            ranges.append((begin, end))
            sizes.append(end - begin)
            first += count
        rows = None
        with self.group.together():
            if sizes[self.group.index]:
                rows = self.own(*ranges[self.group.index]) * self.share
        n = self.like.shape[1]
        return self.group.spread(self.group.deal(rows, sizes, n, self.like[0:0]), n)
