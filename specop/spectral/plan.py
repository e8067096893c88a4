"""plan: how many vectors each function would hold, and how many products it would make, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.arrays.memory import in_bytes
from specop.errors import InvalidInputError, checked_count, checked_number
from specop.krylov.room import Room
from specop.operators.scipy import aslinearoperator
from specop.results.tables import Column, html_table, text_table
from specop.spectral.check import CHECK_ROWS
from specop.spectral.entries import probes_together
from specop.spectral.fitting import CHECK_VECTORS, LEAST_BESIDE, default_limit, default_ncv
from specop.spectral.goals import PRODUCTS, STAGE
from specop.spectral.sampling import LARGEST_SKETCH
from specop.spectral.spectral_density import STEPS

__all__ = ["MemoryPlan", "PlannedCall", "plan"]

# Peak memory of a Hessian product of n parameters, in vectors, activations aside: measured with torch, parameters
# replicated, and sharded over R devices and gathered block by block, where 2 devices took 2.9 and 4 took 1.65.
_REPLICATED = 3.3
_SHARDED_FIXED, _SHARDED_SHARE = 0.4, 5.0
# A basis of a sum over the spectrum holds so many steps of one probe at most.
_SUM_PRODUCTS = 2000
# Solution, right-hand side, residual, direction and its product.
_CONJUGATE_GRADIENTS = 5


@dataclass(frozen=True)
class PlannedCall:
    """What one function would do with its defaults.

    Attributes
    ----------
    name : str
        The function, with what it is asked for.
    vectors : int
        Vectors held at once beside those that products take.
    bytes : int
        Their size on each device.
    fits : bool
        Whether they fit; if not, the call raises NotEnoughMemoryError.
    products : str
        Fewest and most products.
    how : str
        What free memory has decided.
    """

    name: str
    vectors: int
    bytes: int
    fits: bool
    products: str
    how: str


@dataclass(frozen=True)
class MemoryPlan:
    """What functions would hold on each device and how many products they would make; made by `plan`.

    Attributes
    ----------
    n : int
        Length of a vector.
    devices : int
        Number of devices that it is spread over.
    row : int
        Bytes of a vector on each device.
    free : int
        Bytes free on each device.
    product : int
        Bytes that products may take there.
    calls : tuple of PlannedCall
    """

    n: int
    devices: int
    row: int
    free: int
    product: int
    calls: tuple[PlannedCall, ...]

    @property
    def rows(self) -> int:
        """How many vectors fit beside the products."""
        return Room(self.row, self.free, self.product).rows

    def __getitem__(self, name: str) -> PlannedCall:
        """Return the call of the function with this name."""
        for call in self.calls:
            if call.name.startswith(name):
                return call
        raise InvalidInputError(f"the plan has no {name!r}; it has {', '.join(call.name for call in self.calls)}.")

    def __str__(self) -> str:
        return "\n".join([self._headline(), *(line.rstrip() for line in text_table(self._columns()))])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<p>{self._headline()}</p>{html_table(self._columns())}"

    def _headline(self) -> str:
        where = f"each of {self.devices} devices" if self.devices > 1 else "the device"
        return (
            f"{self.n:,} entries a vector: {in_bytes(self.row)} on {where}, where {in_bytes(self.free)} are free, "
            f"products may take {in_bytes(self.product)} and {self.rows} vectors fit"
        )

    def _columns(self) -> dict[str, Column]:
        cells = [
            (call.name, str(call.vectors), in_bytes(call.bytes), "yes" if call.fits else "NO", call.products, call.how)
            for call in self.calls
        ]
        headings = ("function", "vectors", "memory", "fits", "products", "")
        return {
            str(i): Column(np.array(values), heading or "how")
            for i, (heading, values) in enumerate(zip(headings, zip(*cells, strict=True), strict=True))
        }


def plan(
    A: Any = None,
    *,
    n: int | None = None,
    dtype: Any = "float32",
    free: float | None = None,
    devices: int = 1,
    product: float | None = None,
    k: int = 10,
    ncv: int | None = None,
) -> MemoryPlan:
    r"""Tell what functions with their defaults would hold on each device, and how many products they would make.

    Of an operator, or on paper: for n parameters on R devices. A vector takes n b / R bytes there, b of them for an
    entry. A product takes, activations aside, 3.3 n b with all parameters on each device, and
    :math:`(0.4 + 5 / R)\, n b` where they are sharded and gathered block by block, if that is less: measured with torch
    on up to 4 devices. A tenth of what is free beside the products is left to allocators; the rest holds vectors.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator, optional
        Operator whose vectors are meant; the device is asked what is free, and nothing is multiplied. Before the first
        product of an objective's matrix its linearizations may take half of that.
    n : int, optional
        Length of a vector, where there is no operator.
    dtype : numpy.dtype
        Dtype of the vectors, where there is no operator.
    free : float, optional
        Bytes free on each device; default: what the operator's device says.
    devices : int
        R, the number of devices that vectors are spread over, where there is no operator.
    product : float, optional
        Bytes that a product takes on each device; default: as above, or what the operator says.
    k : int
        Number of eigenvalues.
    ncv : int, optional
        Rows of the Krylov space, as `eigsh` takes it.

    Returns
    -------
    MemoryPlan
        What each function holds; prints as a table; ``plan(...)["eigsh"]`` is the entry of one function.

    Raises
    ------
    InvalidInputError
        If neither an operator nor `n` with `free` is given, or both.

    Examples
    --------
    >>> import specop
    >>> paper = specop.plan(n=8_000_000_000, free=80e9, devices=64, k=10)
    >>> paper["eigsh"].vectors, paper["spectral_density"].vectors
    (61, 31)
    """
    room, n, devices = _room(A, n, dtype, free, devices, product)
    k = checked_count("k", k, n)
    calls = (
        _eigsh(room, n, k, ncv),
        _trace(room, n),
        _diagonal(room, n),
        _density(room, n),
        _sums(room, n),
        PlannedCall(
            "solve (conjugate gradients)",
            _CONJUGATE_GRADIENTS,
            _CONJUGATE_GRADIENTS * room.row,
            room.rows >= _CONJUGATE_GRADIENTS,
            _range(2, 10_000),
            "",
        ),
    )
    return MemoryPlan(n, devices, room.row, room.free, room.reserved, calls)


def _room(
    A: Any, n: int | None, dtype: Any, free: float | None, devices: int, product: float | None
) -> tuple[Room, int, int]:
    if (A is None) == (n is None) or (A is None and free is None) or (A is not None and devices != 1):
        raise InvalidInputError(
            "plan needs an operator, plan(A), or the case on paper, plan(n=8_000_000_000, free=80e9, devices=8)."
        )
    if A is not None:
        asked = Room.beside(aslinearoperator(A))
        return _changed(asked, free, product), aslinearoperator(A).shape[1], 1
    assert n is not None
    n, devices = checked_count("n", n), checked_count("devices", devices)
    whole = n * np.dtype(dtype).itemsize
    peak = min(_REPLICATED, _SHARDED_FIXED + _SHARDED_SHARE / devices) * whole
    return _changed(Room(-(-whole // devices), 0, int(peak)), free, product), n, devices


def _changed(room: Room, free: float | None, product: float | None) -> Room:
    sizes = {"free": (free, room.free), "product": (product, room.reserved)}
    told = [known if given is None else int(checked_number(name, given)) for name, (given, known) in sizes.items()]
    return Room(room.row, *told)


def _eigsh(room: Room, n: int, k: int, ncv: int | None) -> PlannedCall:
    # As eigsh raises it.
    wished = default_ncv(n, k) if ncv is None else min(n, max(checked_count("ncv", ncv, n), k + CHECK_ROWS))
    least = wished if ncv is not None else min(wished, k + LEAST_BESIDE)
    rows = wished if wished < room.rows else max(least, min(wished, room.rows - 1 - CHECK_VECTORS))
    how = "" if rows == wished else f"restarts come earlier: {wished + 1} do not fit"
    fits = rows + 1 <= room.rows
    return PlannedCall(
        f"eigsh (k={k})",
        rows + 1,
        (rows + 1) * room.row,
        fits,
        _range(k + 1, default_limit(k)),
        how if fits else "on_host(A) holds them in host memory, for two copies of a vector with each product",
    )


def _trace(room: Room, n: int) -> PlannedCall:
    capacity = min(LARGEST_SKETCH // (2 * n), room.rows // 2, PRODUCTS, n)
    if capacity < 2 * STAGE:
        return PlannedCall("trace", 2, 2 * room.row, room.rows >= 2, _range(STAGE, PRODUCTS), "no sketch is kept")
    return PlannedCall(
        "trace", 2 * capacity, 2 * capacity * room.row, True, _range(STAGE, PRODUCTS), f"a sketch of {capacity} at most"
    )


def _diagonal(room: Room, n: int) -> PlannedCall:
    if min(LARGEST_SKETCH // (5 * n), room.rows // 5) >= STAGE:
        held = min(5 * (PRODUCTS // 2), LARGEST_SKETCH // n, room.rows, 5 * n)
        return PlannedCall("diagonal", held, held * room.row, True, _range(STAGE, PRODUCTS), "a sketch at most")
    held = 3 + probes_together(room.rows)
    return PlannedCall(
        "diagonal", held, held * room.row, held <= room.rows, _range(STAGE, PRODUCTS), "no sketch is kept"
    )


def _density(room: Room, n: int) -> PlannedCall:
    steps = min(STEPS, n)
    return _of_rules("spectral_density", room, steps, f"{steps} a probe")


def _sums(room: Room, n: int) -> PlannedCall:
    return _of_rules("trace_function, logdet", room, min(n, _SUM_PRODUCTS // STAGE), f"at most {_SUM_PRODUCTS:,}")


def _of_rules(name: str, room: Room, steps: int, products: str) -> PlannedCall:
    if steps + 1 <= room.rows:
        return PlannedCall(name, steps + 1, (steps + 1) * room.row, True, products, "a basis is stored, at most")
    return PlannedCall(name, 3, 3 * room.row, room.rows >= 3, products, "three vectors, copies merged")


def _range(least: int, most: int) -> str:
    return f"{least} to {most:,}"
