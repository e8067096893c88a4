"""Readers: which processes of a group read which part of the data; Axis: what a dimension of their mesh is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specop.arrays.processes import Processes
from specop.errors import InvalidInputError

__all__ = ["Axis", "Readers"]


@dataclass(frozen=True)
class Axis:
    """What a dimension of a mesh is for.

    Parameters
    ----------
    role : str
        Purpose of the dimension: "parts" of parameters, "copies" of these, or "tensor" parallelism.
    count : int
        Number of processes along the dimension.
    step : int
        Difference between the numbers of neighbouring processes along the dimension.
    """

    role: str
    count: int
    step: int = 1


@dataclass(frozen=True)
class Readers:
    """Those processes of a group that read different samples; others read what one of these reads.

    Parameters
    ----------
    group : Processes
    sum : callable
        Returns the sum over all processes of the group of a tensor that each gives.
    first : sequence of int
        The number of the process that speaks for all who read a part of the data, part by part.
    index : int
        Which part this process reads.
    """

    group: Processes
    sum: Callable[[Tensor], Tensor]
    first: Sequence[int]
    index: int

    @property
    def count(self) -> int:
        """Number of parts that the data are read in."""
        return len(self.first)

    @property
    def speaks(self) -> bool:
        """Whether this process is the one that speaks for its part."""
        return self.first[self.index] == self.group.index

    def exchange(self, value: Any) -> list[Any]:
        """Return what each part's speaker gives; all processes of the group call it."""
        found = self.group.exchange(value)
        return [found[process] for process in self.first]

    def together(self) -> AbstractContextManager[None]:
        """End a block in all processes of the group together."""
        return self.group.together()

    def total(self, own: Tensor) -> Tensor:
        """Return the sum over the parts of what each speaker gives, the same bits in all processes of the group."""
        return self.sum(own.clone() if self.speaks else torch.zeros_like(own))

    def refuse_different(self, told: Sequence[Any]) -> None:
        """Raise InvalidInputError unless those who read a part of the data have the same batch.

        Parameters
        ----------
        told : sequence
            Something that tells batches apart, of each process.
        """
        for process, part in enumerate(self.group.exchange(self.index)):
            first = self.first[part]
            if told[process] != told[first]:
                raise InvalidInputError(
                    f"processes {first} and {process} of {self.group.count} have read different batches, and run the "
                    f"same tensor-parallel layers: give all processes along that dimension of the mesh the same data, "
                    f"in the same order, and another part to those along the other one. A DistributedSampler is told "
                    f"that dimension's num_replicas=mesh['data'].size() and rank=mesh.get_local_rank('data')."
                )
