"""Fingerprint: what tells the data of one process from those of another, and samples that two of them have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from specop.errors import InvalidInputError
from specop.objectives.autodiff import Autodiff
from specop.objectives.data import Batches

__all__ = ["Fingerprint", "check_apart", "repeated"]

# Samples of a batch that tell it from another one.
_LOOKED_AT = 16


class Fingerprint(NamedTuple):
    """Checksums that tell a data set from another one.

    Attributes
    ----------
    batches : tuple
        Checksums of the first samples of each batch.
    ahead : list
        Checksums of single samples, the first ones.
    last : object
        Checksum of the last sample; None where there is none.
    """

    batches: tuple[Any, ...]
    ahead: list[Any]
    last: Any

    @classmethod
    def of(cls, data: Batches, autodiff: Autodiff) -> Fingerprint:
        """Take that of a data set, in a pass over it."""

        def seen(batch: Any, first: int, stop: int) -> tuple[int, ...]:
            # A copy: a look at an array by way of NumPy could make it one that others may write into.
            return autodiff.batch_fingerprint(autodiff.pick(batch, np.arange(first, stop)))

        found: list[Any] = []
        ahead: list[Any] = []
        last: Any = None
        with data.reading() as batches:
            for batch, _, _ in batches:
                count = autodiff.count(batch)
                found.append(seen(batch, 0, min(_LOOKED_AT, count)))
                ahead = ahead or [seen(batch, i, i + 1) for i in range(min(_LOOKED_AT, count))]
                last = seen(batch, count - 1, count)
        return cls(tuple(found), ahead, last)


def check_apart(prints: Sequence[Fingerprint]) -> None:
    """Raise InvalidInputError if two processes have the same data."""
    for number, one in enumerate(prints):
        for earlier in range(number):
            if one.batches and prints[earlier].batches == one.batches:
                raise InvalidInputError(
                    f"processes {earlier} and {number} of {len(prints)} have the same data, to the last bit. With "
                    f"parallel=True each is to have a part of all, as by torch.utils.data.DistributedSampler(dataset, "
                    f"shuffle=False); where each has all data pass parallel=False."
                )


def repeated(samples: Sequence[int], prints: Sequence[Fingerprint]) -> str:
    """Return why samples may come twice, as in lists of batches that were made by a sampler which fills them up.

    Parameters
    ----------
    samples : sequence of int
        The number of samples of each process.
    prints : sequence of Fingerprint
        Fingerprint of the data of each process.
    """
    last = prints[-1].last
    if len(set(samples)) > 1 or last is None:
        return ""
    places = [(number, one.ahead.index(last)) for number, one in enumerate(prints[:-1]) if last in one.ahead]
    if not places:
        return ""
    number, place = places[0]
    return (
        f"the last sample of process {len(prints) - 1} is sample {place} of process {number} to the last bit, and all "
        f"{len(prints)} processes have {samples[0]}: so fill samplers up what cannot be divided (DistributedSampler, "
        f"even_batches of accelerate), and what comes twice counts twice in the mean. Then give each process its own "
        f"part, such as torch.utils.data.Subset(dataset, range(rank, len(dataset), {len(prints)})) without a sampler; "
        f"parts need not be of the same size. Where your data hold equal samples, there is nothing to do."
    )
