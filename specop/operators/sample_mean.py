"""SampleMean: what an operator tells of itself that is a mean over data samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from specop.arrays.backend import Array
from specop.statistics.numbers import Floats, Integers

__all__ = ["Group", "MappedMean", "SampleMean", "Split", "Traces"]


class Group(Protocol):
    """Some samples, and products with the mean over them.

    Of a partition of all samples into groups, the operator is the sum of ``share`` times each group's matrix.
    """

    @property
    def share(self) -> float:
        """Their part of all loss terms; 0 where none of theirs counts."""

    @property
    def samples(self) -> int:
        """How many they are."""

    @property
    def bytes(self) -> int:
        """Memory that they take."""

    def expect(self) -> None:
        """Say that several products follow, so that the first one is worth a linearization."""

    def multiply(self, vector: Array) -> Array:
        """Return the product of the mean over these samples with a vector, in fresh storage."""


class SampleMean(Protocol):
    """A matrix that is the mean of one for each sample, weighted by their numbers of loss terms.

    It is asked inside of the operator's session.
    """

    @property
    def samples(self) -> int:
        """How many there are."""

    @property
    def largest(self) -> int:
        """Number of samples that are known to fit into memory together."""

    def room(self) -> int:
        """Return the bytes that groups may still hold."""

    def importance(self) -> Floats:
        """Return how much each sample may add to the matrix, up to a common factor, by one forward pass."""

    def groups(self, chosen: Sequence[Integers]) -> Iterator[Group]:
        """Give groups of samples, by one pass over the data.

        Parameters
        ----------
        chosen : sequence of ndarray of int
            Distinct numbers of samples for each group; no two groups share one.
        """

    @property
    def split(self) -> Split | None:
        """The matrix as a sum whose first part has a trace that single samples tell; None where that is not known."""


@dataclass(frozen=True)
class Traces:
    """What some samples add to a trace.

    Attributes
    ----------
    values : ndarray
        What each of them adds to the trace of the mean over all, on average over random signs.
    are_exact : bool
        Whether there is nothing random in them.
    """

    values: Floats
    are_exact: bool


@dataclass(frozen=True)
class Split:
    """A mean over samples as a sum of two.

    Attributes
    ----------
    traces : callable
        ``traces(chosen, seed, first)`` gives the `Traces` of the first part for each of several groups of samples, by
        one pass over the data. It takes each sample's gradient once. The signs are those of the seed and of a number,
        which is `first` for the first group and one more for each one after it.
    rest : SampleMean or None
        The second part; None if it is zero.
    parts : tuple of slice
        Entries of vectors, such as one slice for each array of parameters.
    """

    traces: Callable[[Sequence[Integers], int, int], Iterator[Traces]]
    rest: SampleMean | None
    parts: tuple[slice, ...]


@dataclass(frozen=True)
class MappedMean:
    """A matrix that is linear in a mean over samples, such as a multiple or a product with a fixed matrix.

    Parameters
    ----------
    mean : SampleMean
    apply : callable
        ``apply(multiply, x)`` returns the matrix that is made of the one behind `multiply`, times x, in fresh storage.
    """

    mean: SampleMean
    apply: Callable[[Callable[[Array], Array], Array], Array]

    @property
    def samples(self) -> int:
        """How many there are."""
        return self.mean.samples

    @property
    def largest(self) -> int:
        """Number of samples that are known to fit into memory together."""
        return self.mean.largest

    def room(self) -> int:
        """Return the bytes that groups may still hold."""
        return self.mean.room()

    def importance(self) -> Floats:
        """Return how much each sample may add to the mean."""
        return self.mean.importance()

    def groups(self, chosen: Sequence[Integers]) -> Iterator[Group]:
        """Give groups of samples, by one pass over the data."""
        for group in self.mean.groups(chosen):
            yield MappedGroup(group, self.apply)

    @property
    def split(self) -> None:
        """Nothing is known of the trace of a product with another matrix."""
        return None


@dataclass(frozen=True)
class MappedGroup:
    """What a matrix that is linear in a mean is on some of the samples.

    Parameters
    ----------
    group : Group
    apply : callable
        Function that multiplies, as `MappedMean` takes it.
    """

    group: Group
    apply: Callable[[Callable[[Array], Array], Array], Array]

    @property
    def share(self) -> float:
        """Their part of all loss terms."""
        return self.group.share

    @property
    def samples(self) -> int:
        """How many they are."""
        return self.group.samples

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return self.group.bytes

    def expect(self) -> None:
        """Say that several products follow."""
        self.group.expect()

    def multiply(self, vector: Array) -> Array:
        """Return the product of the matrix over these samples with a vector, in fresh storage."""
        return self.apply(self.group.multiply, vector)
