"""FittedBasis: how many rows a Krylov space may have, by what is free on the device."""

from __future__ import annotations

from specop.arrays.memory import free_host_memory, in_bytes
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop.spectral.goals import PRODUCTS

__all__ = ["CHECK_VECTORS", "LEAST_BESIDE", "FittedBasis", "default_limit", "default_ncv", "may_store", "rows_that_fit"]

LEAST_BESIDE = 6
"""Rows beside the k wanted ones with which a restarted run still finds what a larger one does.

Of 72 runs each on spectra with copies, bulks and pairs none was wrong with 6 or more, one was with 4 and six with 3;
6 took up to two thirds more products than the default.
"""

CHECK_VECTORS = 2
"""Vectors that the check for missed eigenvalues takes beside the rows, where these are few."""

_LARGEST_FREE_BASIS = 1_000_000
# Up to so many dimensions nothing is ever restarted.
_HELD_WHOLE = 400


class FittedBasis:
    """The size of a Krylov space that restarts when it is full: as many rows as are wished for, or as fit.

    Before the first product of a model nobody knows what its products take. Where all rows fit beside the most that
    they may take, nothing else is asked. Otherwise the space starts with few rows, and the device is asked again
    after the first product.

    Parameters
    ----------
    run : Run
    wished : int
        Rows where memory is ample; a space of them has one more vector, and a product makes another.
    least : int
        Fewest rows with which the method works.
    explicit : str or None
        The argument by which the user chose the wished number, which is then taken as it is or refused.

    Raises
    ------
    NotEnoughMemoryError
        If the rows do not fit even beside products that take nothing.
    """

    def __init__(self, run: Run, wished: int, least: int, explicit: str | None = None) -> None:
        self.wished = wished
        self.least = wished if explicit else min(wished, least)
        self._run = run
        self._is_explicit = explicit is not None
        self._what = explicit or f"{run.name} with at least {self.least} rows"
        self._begun = run.products
        self._told = ""
        room = run.room()
        if self.least + 1 > room.most:
            raise room.refusal(self.least + 1, self._what, self._remedy())
        self._is_settled = explicit is not None or wished < room.rows
        self._rows = wished if self._is_settled else max(self.least, min(wished, room.rows - 1 - CHECK_VECTORS))

    def fit(self, space: KrylovSpace) -> None:
        """Tell the space how large it may be; ask the device again, where that is needed, after the first product."""
        if not self._is_settled and self._run.products > self._begun:
            self._is_settled = True
            self._ask(space)
        space.confine(self._rows)

    def keep(self, space: KrylovSpace) -> None:
        """Take the size of a space that goes on from a checkpoint, so that the outcome is the same."""
        self._is_settled, self._rows = True, space.capacity - 1

    def _ask(self, space: KrylovSpace) -> None:
        # What the space holds already is not free any more.
        room = self._run.room()
        fitting = room.rows + space.size - 1
        if fitting < self.least:
            raise room.refusal(self.least + 1, self._what, self._remedy())
        self._rows = self.wished if fitting >= self.wished else max(self.least, fitting - CHECK_VECTORS)
        if self._rows < self.wished:
            held, usual = room.told(self._rows + 1), self.wished + 1
            self._told = f"at most {held} were held instead of {usual}, as fit into the free memory"

    def tell(self, space: KrylovSpace) -> None:
        """Let the result say that fewer rows than usual were held, and whether that has cost products."""
        if self._told:
            cost = "restarts cost products" if space.is_restarted else "they were enough"
            self._run.note(f"{self._told}: {cost}")

    def _remedy(self) -> str:
        model = self._run.A.samples is not None
        fewer = f"Without {self._what} as many are held as fit. " if self._is_explicit else ""
        return (
            f"{fewer}Otherwise free memory on the device, or call {self._run.name}(specop.on_host(A)): the vectors are "
            f"then in host memory, where {in_bytes(free_host_memory())} are free, for two copies of a vector with each "
            f"product."
            + " An objective with memory_budget=0 keeps nothing between products, which then cost about twice as much."
            * model
        )


def default_ncv(n: int, k: int, block_size: int = 1) -> int:
    """Return the largest number of basis vectors where nobody says and memory is ample."""
    # A larger basis saves restarts, and takes no longer where a processor's cache holds it.
    free = n if n <= _HELD_WHOLE else min(_LARGEST_FREE_BASIS // n, 5 * k + 100)
    return min(n, max(2 * k + 40 * block_size, free))


def default_limit(k: int) -> int:
    """Return the limit on products for k eigenvalues where nobody says."""
    return max(PRODUCTS, 100 * k)


def may_store(run: Run, rows: int, wanted: bool | None) -> bool:
    """Return whether a run may store so many rows for its Gauss rules; if not, its result says so.

    Parameters
    ----------
    run : Run
    rows : int
        The most that it may come to.
    wanted : bool or None
        What the user wants; None for what fits.

    Raises
    ------
    NotEnoughMemoryError
        If the user wants rows that do not fit.
    """
    room = run.room()
    if wanted:
        room.check(
            rows + 1,
            "stored_basis=True",
            "Leave it out: three vectors do, with somewhat less accuracy for the same products.",
        )
        return True
    if wanted is None and rows + 1 <= room.rows:
        return True
    why = f", as {room.told(rows + 1)} do not fit into {in_bytes(room.free)} that were free" * (wanted is None)
    cost = "eigenvalues found again were merged, which takes some of the steps"
    run.note(f"three vectors were held instead of a basis{why}: {cost}")
    return False


def rows_that_fit(run: Run, wished: int, least: int) -> int:
    """Return how many rows a run may store that ends when it is full: as many as wished for, or as fit.

    Fewer leave a wider error, which the result states, and its notes say why.

    Raises
    ------
    NotEnoughMemoryError
        If not even the least number fits.
    """
    room, least = run.room(), min(wished, least)
    if least + 1 > room.most:
        raise room.refusal(
            least + 1,
            f"{run.name} with at least {least} rows",
            f"Free memory on the device, or pass specop.on_host(A), which holds them in host memory, where "
            f"{in_bytes(free_host_memory())} are free, for two copies of a vector with each product.",
        )
    rows = max(least, min(wished, room.rows - 1))
    if rows < wished:
        run.note(f"at most {room.told(rows + 1)} fit of {wished + 1}: more would tell more")
    return rows
