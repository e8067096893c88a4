"""units_of: what the data behind a mean loss are a sample of, each with its gradient: samples, or whole batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specop.analysis._changed_losses import check_additive
from specop.arrays.backend import Array, backend_of
from specop.errors import InvalidInputError, MissingOutputsError
from specop.statistics.numbers import Integers

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["LEAST", "Units", "parts_of", "units_of"]

LEAST = 8
"""So many units at least show how much they scatter."""


@dataclass(frozen=True, eq=False)
class Units:
    """What the data are a sample of.

    Attributes
    ----------
    count : int
        How many there are.
    size : int
        Number of samples in each.
    rows : iterator
        Gives their numbers and their gradients in blocks, once, in any order.
    note : str
        Why they are not samples; empty where they are.
    """

    count: int
    size: int
    rows: Iterator[tuple[Integers, Array]]
    note: str = ""

    def samples(self, numbers: Integers) -> Integers:
        """Return the numbers of the samples in some units."""
        return (numbers[:, None] * self.size + np.arange(self.size)).reshape(-1)


def units_of(objective: Objective, theta: Array | None) -> Units:
    """Return the samples, or batches where samples have no gradients of their own.

    Parameters
    ----------
    objective : Objective
    theta : native vector (n,) or None
        Parameters at which units are looked at.

    Raises
    ------
    InvalidInputError
        If samples depend on each other, in the model or in the criterion, and there are no 8 batches of equal size.
    """
    samples = objective.samples
    try:
        check_additive(objective, theta)
        blocks = objective.numbered_gradients(theta)
        first = next(blocks)
    except MissingOutputsError:
        return Units(samples, 1, _one_by_one(objective, theta))
    except InvalidInputError as error:
        return _batches(objective, theta, error)
    return Units(samples, 1, itertools.chain([first], blocks))


def _one_by_one(objective: Objective, theta: Array | None) -> Iterator[tuple[Integers, Array]]:
    """Yield the gradients of single samples of a loss that tells no outputs."""
    for number in range(objective.samples):
        row = objective.subset([number]).gradient(theta)
        yield np.array([number]), backend_of(row).stack([row])


def _batches(objective: Objective, theta: Array | None, error: InvalidInputError) -> Units:
    batches = objective.batches()
    sizes = sorted({batch.samples for batch in batches})
    if len(batches) < LEAST or len(sizes) > 1:
        raise InvalidInputError(
            f"{error} The noise of batches' gradients can be had instead, from {LEAST} or more batches of one size: "
            f"the data has {len(batches)} of {' to '.join(map(str, (sizes[0], sizes[-1])[: len(sizes)]))} samples."
        ) from error
    gradients = enumerate(batch.gradient(theta) for batch in batches)
    rows = ((np.array([number]), backend_of(row).stack([row])) for number, row in gradients)
    note = (
        f"gradients are those of {len(batches)} batches of {sizes[0]} samples, because samples have none of their own"
    )
    return Units(len(batches), sizes[0], rows, note)


def parts_of(objective: Objective, units: Units, parts: int, seed: int) -> Integers:
    """Return the number of the part that each unit belongs to, at random and as even as can be.

    Of several batches each gives as many samples to each part as it can, so that parts have batches of at most two
    sizes where all batches have one: frameworks compile for each size.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, units.count]))
    if units.size > 1 or len(objective.batches()) == 1:
        return np.asarray(rng.permutation(np.arange(units.count) % parts))
    rounds = [rng.permutation(parts) for _ in range(-(-units.count // parts))]
    return np.concatenate(rounds)[: units.count]
