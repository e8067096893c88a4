"""Room: how many vectors an algorithm may hold beside the products that it makes."""

from __future__ import annotations

from dataclasses import dataclass

from specop.arrays.memory import in_bytes
from specop.errors import NotEnoughMemoryError
from specop.operators.operator import LinearOperator

__all__ = ["Room"]

# What is free is an estimate: allocators round up, and other processes live on the same device.
_SHARE = 0.9


@dataclass(frozen=True)
class Room:
    """What is free where an operator's vectors are, asked when the object is made.

    Attributes
    ----------
    row : int
        Bytes of a vector on a device.
    free : int
        Bytes that are free there.
    reserved : int
        Bytes of them that products may still take.
    """

    row: int
    free: int
    reserved: int

    @classmethod
    def beside(cls, A: LinearOperator) -> Room:
        """Return the room for vectors of the operator's domain."""
        return cls(A.backend.row_bytes(A.domain), A.backend.free_memory(A.domain), A.working_bytes)

    @property
    def rows(self) -> int:
        """How many vectors fit."""
        return max(0, int(_SHARE * (self.free - self.reserved)) // self.row)

    @property
    def most(self) -> int:
        """How many would fit if products took nothing: what does not fit here fits nowhere."""
        return int(_SHARE * self.free) // self.row

    def told(self, rows: int) -> str:
        """Return so many vectors and their size in words."""
        return f"{rows} vectors of {in_bytes(self.row)} ({in_bytes(rows * self.row)})"

    def check(self, rows: int, what: str, remedy: str) -> None:
        """Raise NotEnoughMemoryError if so many vectors, which was asked for, do not fit even beside nothing.

        Parameters
        ----------
        rows : int
            Number of vectors to be held at once.
        what : str
            What holds them, such as an argument with its value.
        remedy : str
            What to do instead; a sentence.
        """
        if rows > self.most:
            raise self.refusal(rows, what, remedy)

    def refusal(self, rows: int, what: str, remedy: str) -> NotEnoughMemoryError:
        """Return the error that says what is needed and what is free."""
        return NotEnoughMemoryError(
            f"{what} holds {self.told(rows)}, but {in_bytes(self.free)} are free on the device, of which products may "
            f"take {in_bytes(self.reserved)}. {remedy}"
        )
