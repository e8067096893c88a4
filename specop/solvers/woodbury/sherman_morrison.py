"""ShermanMorrison: the inverse of damping*I + (1/m) sum g g', while rows come and go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays.backend import Array, backend_of, shape_of
from specop.errors import InvalidInputError, checked_count, checked_number
from specop.solvers.woodbury.damped_inverse import DampedInverse
from specop.solvers.woodbury.gram_block import GramBlock
from specop.solvers.woodbury.moment_block import MomentBlock
from specop.solvers.woodbury.partition import Scaling, checked_blocks, partition
from specop.solvers.woodbury.row_marks import RowMarks
from specop.solvers.woodbury.stored_rows import StoredRows

__all__ = ["ShermanMorrison"]

# Up to this size, sums of outer products are cheaper than rows from the first row on.
_ALWAYS_MOMENTS = 256


class ShermanMorrison:
    r"""Inverse of a damped second moment of rows, such as an empirical Fisher matrix; rows are added and removed.

    .. math:: F = \delta I + \frac1m \sum_{i=1}^{m} g_i g_i^T

    The mean is inverted: m grows with the rows, unless `count` fixes it. With the rows in G, the form of Woodbury
    :math:`F^{-1} x = (x - G^T (\delta m I + G G^T)^{-1} G x) / \delta` [1]_ takes two passes over the rows for each
    product, and one pass over those held for each block of new ones. Where rows are shorter than there are of them, the
    sum of their outer products takes their place and they are not kept.

    Parameters
    ----------
    damping : float
        Multiple :math:`\delta` of the identity that is added, not negative and in units of F. Zero needs as many
        linearly independent rows as they are long.
    n : int, optional
        Length that every row must have; default: that of the first.
    rows : native array (m, n) or iterable of such blocks, optional
        The first rows. For the gradients of all samples see `Objective.inverse_fisher`.
    count : int, optional
        The divisor m, where it is known in advance: a part of the rows is then scaled as it will be in the whole.
        Default: the number of rows in the sum.
    blocks : int or sequence of slice, optional
        Keep only diagonal blocks of the matrix: all of this size, the last one smaller, as in WoodFisher [2]_, or those
        of consecutive slices that cover all entries, such as ``objective.slices.values()``.
    store : {"device", "host"}
        Memory that rows are kept in. On the device they are the arrays given, by reference: do not write into them.
        From the host they are moved for each product, 64 MiB at a time.
    half : bool
        Whether to keep rows in float16. The matrix is then that of the rounded rows, and inverted as exactly as
        otherwise.
    structure : object with flatten and unflatten, optional
        How parameter structures become vectors of n entries and back, so that the inverse multiplies those too.

    Attributes
    ----------
    damping : float
        Multiple of the identity; it may be set to another value.
    samples : int
        Number of rows in the sum.

    Notes
    -----
    The error of a product is about :math:`\epsilon (1 + \sqrt\kappa) + 2^{-53} \kappa` of :math:`|x| / \delta` with
    :math:`\kappa = |G|^2 / (m \delta)`, and stands in ``.operator().precision``. Gram matrices and sums are float64.

    Blocks of a few dozen rows or more are faster than single rows.

    References
    ----------
    .. [1] W. W. Hager, Updating the inverse of a matrix, SIAM Review 31 (1989), 221-239.
    .. [2] S. P. Singh and D. Alistarh, WoodFisher: efficient second-order approximation for neural network compression,
       NeurIPS (2020).

    Examples
    --------
    >>> import numpy as np, specop
    >>> inverse = specop.ShermanMorrison(damping=0.5, rows=np.array([[1.0, 1.0, 0.0]]))
    >>> inverse @ np.ones(3)
    array([0.4, 0.4, 2. ])
    >>> inverse.update(np.array([0.0, 0.0, 1.0]))
    >>> inverse.diagonal().round(3)
    array([1.333, 1.333, 1.   ])
    """

    def __init__(
        self,
        *,
        damping: float,
        n: int | None = None,
        rows: Any = None,
        count: int | None = None,
        blocks: int | Iterable[slice] | None = None,
        store: str = "device",
        half: bool = False,
        structure: Any = None,
    ) -> None:
        for name, value in (("n", n), ("count", count)):
            if value is not None:
                checked_count(name, value)
        if store not in ("device", "host"):
            raise InvalidInputError(f"store must be 'device' or 'host', got {store!r}.")
        self.damping = checked_number("damping", damping)
        self._n = n
        self._count = count
        self._partition = checked_blocks(blocks)
        self._on_host = store == "host"
        self._half = bool(half)
        self._rows: StoredRows | None = None
        self._operator: DampedInverse | None = None
        self._marks: RowMarks | None = None
        # Where each row of the sum is stored, if it is.
        self._slots = np.zeros(0, dtype=np.intp)
        # Stored rows that the blocks have taken in.
        self._absorbed = 0
        self._grams: list[GramBlock] = []
        self._moments: list[MomentBlock] = []
        self._structure = structure
        for block in _blocks(rows):
            self.update(block)

    @property
    def samples(self) -> int:
        """Number of rows in the sum."""
        return 0 if self._marks is None else len(self._marks)

    def update(self, rows: Array) -> None:
        """Add rows to the sum.

        Parameters
        ----------
        rows : native array, (n,) or (b, n)
            One row, or a block of them.
        """
        block = _as_block(rows)
        if self._rows is None:
            self._begin(block)
        assert self._rows is not None and self._marks is not None
        marks = self._marks.of(block)
        if self._count is not None and self.samples + len(marks) > self._count:
            raise InvalidInputError(
                f"count={self._count} rows were announced, and {self.samples + len(marks)} have come. Pass the final "
                f"number, or leave count out: the mean is then over the rows so far."
            )
        self._operator = None
        self._slots = np.concatenate([self._slots, len(self._rows) + np.arange(len(marks))])
        self._marks.add(marks)
        self._rows = self._rows.plus(block)
        # Rows that are not needed any more are let go in bundles, as large as what is held of them.
        wide = max((block.columns.stop - block.columns.start for block in self._grams), default=0)
        size = max((block.size for block in self._moments), default=0)
        if len(self._rows) - self._absorbed >= size > 0 or len(self._rows) >= wide > 0:
            self._absorb()

    def downdate(self, rows: Array) -> None:
        """Remove rows from the sum.

        Each must be one that was added. Of several copies, any is as good.

        Parameters
        ----------
        rows : native array, (n,) or (b, n)
            One row, or a block of them, as they were added.

        Raises
        ------
        InvalidInputError
            If a row is not in the sum; nothing is removed then.
        """
        if self._rows is None or self._marks is None:
            raise InvalidInputError("there are no rows to remove: none has been added.")
        block = _as_block(rows)
        gone = self._marks.found(self._marks.of(block))
        self._absorb()
        self._operator = None
        leaving = StoredRows(self._rows.backend, self._rows.layout, self._on_host, self._half)
        leaving = leaving.plus(block)
        for moments in self._moments:
            moments.add(leaving, -1.0)
        left = np.setdiff1d(np.arange(len(self._marks)), gone)
        self._marks.keep(left)
        self._slots = self._slots[left]
        self._drop_empty_blocks()

    def operator(self) -> DampedInverse:
        """Return the inverse for the rows so far, as an operator that later updates leave alone.

        It has `diagonal`, `columns` and single entries too.
        """
        if self._rows is None:
            raise InvalidInputError("there are no rows yet: call update(rows) first.")
        if self._operator is None:
            self._absorb()
            scaling = Scaling(self.damping, self._count or max(1, self.samples))
            backend, layout = self._rows.backend, self._rows.layout
            grams = [block.inverse(scaling, self._slots, layout) for block in self._grams]
            moments = [block.inverse(scaling, backend, layout) for block in self._moments]
            self._operator = DampedInverse(self._rows, [*grams, *moments], self.samples, self._structure)
        return self._operator

    def diagonal(self) -> Array:
        """Return the diagonal of the inverse as a native vector; see `DampedInverse.diagonal`."""
        return self.operator().diagonal()

    def columns(self, indices: ArrayLike) -> Array:
        """Return some columns of the inverse as a native (n, k) array."""
        return self.operator().columns(indices)

    def __getitem__(self, entry: tuple[int, int]) -> float:
        """Return one entry of the inverse."""
        return self.operator()[entry]

    def __matmul__(self, x: Any) -> Any:
        """Multiply a native vector (n,), a block (n, k), or a parameter structure where there is one."""
        return self.operator() @ x

    def __repr__(self) -> str:
        size = "of any length" if self._rows is None else f"of length {self._rows.layout.n}"
        return f"<ShermanMorrison damping={self.damping:g}, {self.samples} rows {size}>"

    def _begin(self, block: Array) -> None:
        backend = backend_of(block)
        found = backend.layout(block)
        if self._n is not None and found.n != self._n:
            raise InvalidInputError(f"rows must have n={self._n} entries, got shape {backend.shape(block)}.")
        for columns, size in partition(self._partition, found.n):
            if size <= _ALWAYS_MOMENTS or size < columns.stop - columns.start:
                self._moments.append(MomentBlock(columns, size))
            else:
                self._grams.append(GramBlock(columns))
        self._marks = RowMarks(backend, found)
        self._rows = StoredRows(backend, found, self._on_host, self._half)

    def _absorb(self) -> None:
        """Let all blocks take in the rows that have come, and change forms where that is due."""
        assert self._rows is not None and self._marks is not None
        rows, first = self._rows, self._absorbed
        if rows.are_as_given:
            self._marks.check_latest(len(rows) - first, (piece for _, piece in rows.pieces(first)))
        for moments in self._moments:
            moments.add(rows, first=first)
        for gram in list(self._grams):
            size = gram.columns.stop - gram.columns.start
            if self.samples < size:
                gram.extend(rows)
                continue
            moments = MomentBlock(gram.columns, size)
            moments.add(rows)
            for row in sorted(set(range(len(rows))) - set(self._slots.tolist())):
                moments.add(rows.single(row), -1.0)
            self._grams.remove(gram)
            self._moments.append(moments)
        self._absorbed = len(rows)
        if not self._grams:
            self._rows, self._absorbed = rows.only([]), 0

    def _drop_empty_blocks(self) -> None:
        """Let go of blocks none of whose rows is left in the sum."""
        assert self._rows is not None
        if not self._grams:
            return
        held = np.zeros(len(self._rows), dtype=bool)
        held[self._slots] = True
        places = self._rows.places()
        full = [i for i, place in enumerate(places) if held[place].any()]
        kept = np.concatenate([np.arange(0), *(np.arange(places[i].start, places[i].stop) for i in full)])
        self._slots = np.searchsorted(kept, self._slots)
        for gram in self._grams:
            gram.keep(kept)
        self._rows, self._absorbed = self._rows.only(full), len(kept)


def _blocks(rows: Any) -> Iterable[Array]:
    if rows is None:
        return ()
    if shape_of(rows):
        return (rows,)
    if not isinstance(rows, Iterable):
        raise InvalidInputError(
            f"rows must be a native array, or an iterable of them, got {type(rows).__name__}. For the gradients of all "
            f"samples of an objective call objective.inverse_fisher(damping=...)."
        )
    return rows


def _as_block(rows: Array) -> Array:
    shape = shape_of(rows)
    if len(shape) not in (1, 2) or 0 in shape:
        raise InvalidInputError(
            f"rows must be a non-empty native array of shape (n,) or (b, n), got {shape or rows!r}."
        )
    return backend_of(rows).stack([rows]) if len(shape) == 1 else rows
