r"""Remainder: the trace of what a Hessian is beside J' M J, from products with groups of samples.

A random vector for all parameters takes one product, and sees what couples arrays of parameters as well:

.. math:: v^\top D v

A network that is linear in each of its arrays, as with ReLU, has nothing on the diagonal blocks of these, and much
beside them. A random vector in one array l at a time sees the blocks alone, with one product for each array:

.. math:: \sum_l v_l^\top D v_l
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.krylov.run import Run
from specop.operators.sample_mean import Group
from specop.spectral.part.part import Part
from specop.statistics.group_sums import GroupSum

__all__ = ["Apart", "Remainder"]

# Values of a stratum before the first look at their scatter.
_FEWEST = 8
# Arrays that are multiplied in a group, at most; of more of them, as many by chance.
_MOST = 16


class Remainder:
    """Groups' parts of the trace, by a random vector for all parameters.

    Parameters
    ----------
    run : Run
    part : Part
        Part that has not been looked at.

    Attributes
    ----------
    total : GroupSum
        Sum of the groups' values.
    products : int
        Products with a group that a value takes.
    """

    products = 1

    def __init__(self, run: Run, part: Part) -> None:
        self.part = part
        self.total = GroupSum(part.strata, is_noisy=True, are_bounds_loose=True)
        self._run, self._index = run, 0

    @property
    def cost(self) -> float:
        """Products with one sample that a value takes."""
        return float(self.products * len(self.part.strata[-1].blocks[0]))

    def first(self) -> list[int]:
        """Return how many values each stratum is to have at first."""
        return [self.total.allowed(i, min(_FEWEST, len(one)), _FEWEST) for i, one in enumerate(self.part.strata)]

    def unit(self, stratum: int) -> int:
        """Return how many values of a stratum there are at a time."""
        return 1

    def take(self, counts: Sequence[int]) -> None:
        """Look at groups until each stratum has so many values."""
        for i, group in self.part.next(counts):
            self.total.add(i, *self._measure(group))

    def _measure(self, group: Group) -> tuple[float, float]:
        """Return what a group adds, and a bound of the variance that random vectors give that."""
        value = self._form(group, self._probe())
        return value, value**2

    def _form(self, group: Group, vector: Array) -> float:
        run = self._run
        (form,) = run.to_host(run.backend.dot(vector, run.multiply_group(group, vector)))
        return group.share * float(form)

    def _probe(self) -> Array:
        self._index += 1
        return probes.rademacher(self._run.backend, self._run.A.domain, self._run.seed, self._index - 1)


class Apart(Remainder):
    """Groups' parts of the trace, by a random vector for each array of parameters.

    Parameters
    ----------
    run : Run
    part : Part
        Part that has not been looked at.
    parts : sequence of slice
        Entries of vectors that are seen apart.
    """

    def __init__(self, run: Run, part: Part, parts: Sequence[slice]) -> None:
        super().__init__(run, part)
        self._parts, self._multiplied = parts, min(_MOST, len(parts))
        self.products = self._multiplied
        self._generator = np.random.default_rng([run.seed, 0xD1])

    def _measure(self, group: Group) -> tuple[float, float]:
        backend, layout, probe = self._run.backend, self._run.A.domain, self._probe()
        forms: list[float] = []
        for number in self._generator.permutation(len(self._parts))[: self._multiplied]:
            part = self._parts[int(number)]
            places = np.arange(part.start, part.stop, dtype=np.intp)
            forms.append(self._form(group, backend.scatter(backend.gather(probe, places), places, layout)))
        if len(forms) == len(self._parts):
            return sum(forms), float(np.sum(np.square(forms)))
        value = len(self._parts) / len(forms) * sum(forms)
        return value, value**2
