"""Exchange: between a vector that is cut in the order of the parameters and processes' parts of parameters.

A vector's entries stand in the order of the unsharded model, however the parameters are cut, so that what one number
of processes computes means the same to any other. Each entry moves once, from the process that holds it to the one
that needs it: of n entries a process sends and receives about n / R.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

if TYPE_CHECKING:
    from specop_torch.groups import Group

__all__ = ["Cut", "Exchange", "Place"]


@dataclass(frozen=True)
class Cut:
    """That processes hold a tensor in parts, as `torch.chunk` cuts it along a dimension.

    Parameters
    ----------
    dimension : int
    count : int
        Number of parts.
    step : int
        Difference between the numbers of processes with neighbouring parts.
    """

    dimension: int
    count: int
    step: int = 1

    def part(self, process: int) -> int:
        """Return which part a process holds."""
        return process // self.step % self.count


@dataclass(frozen=True)
class Place:
    """How processes hold a parameter: cut once, cut again in each part of that, or each of them whole.

    Parameters
    ----------
    shape : tuple of int
        Shape of the whole parameter.
    cuts : sequence of Cut
        Cuts, each of what those before it have left. Processes that have the same part of each hold the same.
    """

    shape: tuple[int, ...]
    cuts: tuple[Cut, ...] = ()

    def box(self, process: int) -> list[slice]:
        """Return which entries along each dimension a process holds."""
        found = [slice(0, size) for size in self.shape]
        for cut in self.cuts:
            held = found[cut.dimension]
            size = held.stop - held.start
            width = -(-size // cut.count)
            start = min(cut.part(process) * width, size)
            found[cut.dimension] = slice(held.start + start, held.start + min(start + width, size))
        return found

    def local_shape(self, process: int) -> tuple[int, ...]:
        """Return the shape of what a process holds."""
        return tuple(held.stop - held.start for held in self.box(process))

    def first(self, process: int) -> int:
        """Return the first one of the processes that hold the same part as one of them."""
        return sum(cut.part(process) * cut.step for cut in self.cuts)

    def before(self, process: int, entry: int) -> int:
        """Return how many of a process's entries stand before this one of the whole parameter, in row-major order."""
        box, period, run = self.box(process), math.prod(self.shape), math.prod(self.local_shape(process))
        if run == 0 or entry >= period:
            return run
        found, rest = 0, max(entry, 0)
        for size, held in zip(self.shape, box, strict=True):
            length = held.stop - held.start
            period, run = period // size, run // length
            place, rest = divmod(rest, period)
            found += min(max(place - held.start, 0), length) * run
            if not held.start <= place < held.stop:
                break
        return found

    def entries(self, process: int, start: int, stop: int, device: torch.device) -> slice | Tensor:
        """Return where these of a process's entries stand in the whole parameter."""
        box = self.box(process)
        last = max((cut.dimension for cut in self.cuts), default=0)
        periods = [math.prod(self.shape[dimension + 1 :]) for dimension in range(len(self.shape))]
        skipped = sum(held.start * period for held, period in zip(box, periods, strict=True))
        lengths = [held.stop - held.start for held in box]
        if start == stop or math.prod(lengths[:last]) == 1:
            return slice(skipped + start, skipped + stop)
        left = torch.arange(start, stop, device=device)
        # What follows the last cut without a gap is one run.
        run = math.prod(lengths[last + 1 :])
        found, left = left % run + skipped, left.div(run, rounding_mode="floor")
        for length, period in zip(lengths[last::-1], periods[last::-1], strict=True):
            found += left % length * period
            left = left.div(length, rounding_mode="floor")
        return found


@dataclass(frozen=True)
class _Piece:
    """Entries of a parameter that one process holds and that stand in the part of the vector of another."""

    number: int
    start: int
    stop: int


class Exchange:
    """Moves entries between the vector's parts and the parameters' parts.

    Parameters
    ----------
    group : Group
        Processes that hold both; all of them make each call.
    places : sequence of Place
        Places of the parameters, in the order of the vector.
    """

    def __init__(self, group: Group, places: Sequence[Place]) -> None:
        self.group = group
        self.places = list(places)
        sizes = [math.prod(place.shape) for place in self.places]
        self.n = sum(sizes)
        self._firsts = [0, *itertools.accumulate(sizes)][:-1]
        width = group.width(self.n)
        self._cuts = [min(process * width, self.n) for process in range(group.count + 1)]

    def parts(self, part: Tensor) -> list[Tensor]:
        """Return this process's parts of the parameters, from its part of the vector."""
        me, count = self.group.index, self.group.count
        asked = [self._pieces(me, owner) for owner in range(count)]
        given = [self._pieces(process, me) for process in range(count)]
        sent = [
            part[self._in_vector(piece, process, me, part.device)]
            for process in range(count)
            for piece in given[process]
        ]
        received = self._move(torch.cat([part.new_empty(0), *sent]), given, asked)
        pieces: list[list[Tensor]] = [[] for _ in self.places]
        for piece, entries in zip(itertools.chain(*asked), received, strict=True):
            pieces[piece.number].append(entries)
        shapes = [place.local_shape(me) for place in self.places]
        return [torch.cat([part.new_empty(0), *found]).view(shape) for found, shape in zip(pieces, shapes, strict=True)]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return this process's part of the vector, from its parts of the parameters.

        What each process holds whole it takes from itself.
        """
        me, count = self.group.index, self.group.count
        like = parts[0]
        own = like.new_empty(self._cuts[me + 1] - self._cuts[me])
        given = [self._cut_pieces(me, owner) for owner in range(count)]
        asked = [self._cut_pieces(process, me) for process in range(count)]
        sent = [parts[piece.number].reshape(-1)[piece.start : piece.stop] for piece in itertools.chain(*given)]
        received = iter(self._move(torch.cat([like.new_empty(0), *sent]), given, asked))
        for process in range(count):
            for piece in asked[process]:
                own[self._in_vector(piece, process, me, own.device)] = next(received)
        for piece in self._pieces(me, me):
            if not self.places[piece.number].cuts:
                where = self._in_vector(piece, me, me, own.device)
                own[where] = parts[piece.number].reshape(-1)[piece.start : piece.stop]
        return own

    def _pieces(self, process: int, owner: int) -> list[_Piece]:
        """Return what a process holds of the parameters that stands in another one's part of the vector."""
        found = []
        for number, (place, first) in enumerate(zip(self.places, self._firsts, strict=True)):
            start, stop = (place.before(process, cut - first) for cut in self._cuts[owner : owner + 2])
            if start < stop:
                found.append(_Piece(number, start, stop))
        return found

    def _cut_pieces(self, process: int, owner: int) -> list[_Piece]:
        """Return the same of what is cut; one process of those that hold the same has it."""
        places = self.places
        return [
            piece
            for piece in self._pieces(process, owner)
            if places[piece.number].cuts and places[piece.number].first(process) == process
        ]

    def _in_vector(self, piece: _Piece, process: int, owner: int, device: torch.device) -> slice | Tensor:
        """Return where entries that a process holds stand in the part of the vector that another one has."""
        shift = self._firsts[piece.number] - self._cuts[owner]
        found = self.places[piece.number].entries(process, piece.start, piece.stop, device)
        return slice(found.start + shift, found.stop + shift) if isinstance(found, slice) else found + shift

    def _move(self, sent: Tensor, given: list[list[_Piece]], asked: list[list[_Piece]]) -> list[Tensor]:
        """Return the pieces asked for, in order; `sent` holds those given, one after the other."""
        sizes = [[piece.stop - piece.start for piece in pieces] for pieces in asked]
        if self.group.count > 1:
            outgoing = [sum(piece.stop - piece.start for piece in pieces) for pieces in given]
            received = sent.new_empty(sum(map(sum, sizes)))
            self.group._call(distributed.all_to_all_single, received, sent, [*map(sum, sizes)], outgoing)
        else:
            received = sent
        return list(received.split([*itertools.chain(*sizes)]))
