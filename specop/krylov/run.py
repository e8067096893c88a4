"""Run: a task with one operator, whose products it makes, counts and limits, and whose symmetry it watches.

It opens the operator's session, moves scalars to the host and finds the product that is not finite.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from specop.arrays.backend import Array
from specop.arrays.memory import in_bytes
from specop.errors import (
    AsymmetryError,
    InvalidInputError,
    NoiseWarning,
    NondeterministicError,
    NonFiniteError,
    NotEnoughMemoryError,
    checked_limit,
)
from specop.krylov.room import Room
from specop.krylov.task import Task
from specop.operators.operator import LinearOperator
from specop.operators.sample_mean import Group
from specop.operators.scipy import aslinearoperator
from specop.statistics.numbers import Floats

__all__ = ["Run"]

# Bytes worth the fraction of a millisecond that asking for free memory takes.
_LARGE = 2**24
# The host forms fourth powers in float64; vectors in float32 are divided by their lengths.
_LARGEST = {8: 1e70, 4: 1e30}


class Run(Task):
    r"""One call of an algorithm that multiplies by one operator.

    A run inside another run of the same operator, such as the density inside of `rank`, spends the outer one's limit
    and adds to its count. One of another operator does not: products with an inverse count as one, whatever solves
    stand behind them.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
    name : str
        The public function's; stands in errors and before the bar.
    square : bool
        Whether to refuse a rectangular operator.
    symmetric : bool
        Whether to refuse an operator that is not square, or known not to be symmetric.
    instead : str
        What to do with an operator that is refused; a sentence.
    limit : int, optional
        Largest number of products. It may be set before the run is entered, where it depends on the operator's size.
    seed, progress, raise_on_failure
        Seed of random vectors, whether to show a bar, and whether to raise on failure, as `Task` takes them.

    Attributes
    ----------
    A : LinearOperator
    limit : int or None
    asymmetry : float
        Largest asymmetry seen, relative to the operator's norm.
    """

    def __init__(
        self,
        A: Any,
        name: str,
        *,
        square: bool = False,
        symmetric: bool = False,
        instead: str = "",
        limit: int | None = None,
        seed: int = 0,
        progress: bool = False,
        raise_on_failure: bool = False,
    ) -> None:
        self.A: LinearOperator = aslinearoperator(A)
        super().__init__(
            name,
            self.A.backend,
            self.A.processes,
            seed=seed,
            samples=self.A.samples,
            progress=progress,
            raise_on_failure=raise_on_failure,
            operators=(self.A,),
        )
        rows, columns = self.A.shape
        refused = (symmetric and self.A.is_symmetric is False) or (rows != columns and (square or symmetric))
        if refused:
            kind = "symmetric" if symmetric else "square"
            raise InvalidInputError(f"{name} needs a {kind} operator, got {self.A!r}. {instead}".rstrip())
        self.limit = None if limit is None else checked_limit(limit)
        self._symmetric = symmetric
        self.asymmetry = 0.0
        self._multiplied = self._counted = 0

    @property
    def n(self) -> int:
        """Length of the vectors that the operator takes."""
        return self.A.shape[1]

    @property
    def left(self) -> int:
        """Products that may still be made, here and in a run of the same operator around this one."""
        own = sys.maxsize if self.limit is None else max(0, self.limit - self.products)
        outer = self._outer
        return min(own, outer.left) if isinstance(outer, Run) and outer.A is self.A else own

    def room(self) -> Room:
        """Ask the device how many vectors fit beside the products; of several processes, in the fullest one."""
        own = Room.beside(self.A)
        told = self.processes.exchange((own.free, own.reserved))
        return replace(own, free=min(free for free, _ in told), reserved=max(reserved for _, reserved in told))

    def pay(self, held: int, rows: int) -> int:
        """Return `rows`, once so many more vectors than those that are held are known to fit on the device.

        Raises
        ------
        NotEnoughMemoryError
            If they do not: an allocator that fails does not say what took the memory, and a system may end the process.
        """
        size = rows * self.backend.row_bytes(self.A.domain)
        if size >= _LARGE:
            free = min(self.processes.exchange(self.backend.free_memory(self.A.domain)))
            if size > free:
                raise NotEnoughMemoryError(
                    f"{self.name} holds {held} vectors and needs room for another {rows} ({in_bytes(size)}) after "
                    f"{self.products} products, but {in_bytes(free)} are free on the device. Free memory there, allow "
                    f"fewer vectors (max_matvecs, ncv, steps), or pass specop.on_host(A): it holds them in host memory."
                )
        return rows

    @property
    def samples_left(self) -> int:
        """Samples that `multiply_group` may still be given, one as often as it is multiplied."""
        assert self.samples is not None
        return self.left * self.samples + self._counted * self.samples - self._multiplied

    def multiply(self, x: Array) -> Array:
        """Return A x in fresh storage."""
        self._count(1)
        return self.A._matvec(x)

    def multiply_transposed(self, y: Array) -> Array:
        """Return A.T y in fresh storage."""
        self._count(1)
        return self.A._rmatvec(y)

    def multiply_group(self, group: Group, x: Array) -> Array:
        """Return the product of the mean over some of the operator's samples, which counts as their part of one."""
        self.count_samples(group.samples)
        return group.multiply(x)

    def count_samples(self, samples: int) -> None:
        """Count so many samples as their part of a product, whatever is made of them takes about as long as one."""
        assert self.samples is not None
        self._multiplied += samples
        self._count(-(-self._multiplied // self.samples) - self._counted)
        self._counted = -(-self._multiplied // self.samples)

    def to_host(self, *arrays: Array) -> list[Floats]:
        """Return what the latest product led to as float64 arrays; raise NonFiniteError if it is not finite."""
        return self._finite(self.backend.to_host(*arrays), self.products)

    def scalars(self, of_latest: Iterable[Array]) -> Floats:
        """Return one device scalar for each of the latest products, oldest first, moved to the host together.

        Raises
        ------
        NonFiniteError
            Naming the first product whose scalar is not finite.
        """
        found = self.backend.to_host(*of_latest)
        first = self.products - len(found) + 1
        return np.array([float(self._finite([value], first + i)[0]) for i, value in enumerate(found)])

    def check_size(self, size: float, squared: bool = False) -> None:
        """Raise InvalidInputError if products of this size are too small or too large to work with.

        Their powers would vanish or overflow, and with them residuals, standard errors and bounds.

        Parameters
        ----------
        size : float
            Norm of the largest product so far.
        squared : bool
            Whether entries are squared in the operator's dtype.
        """
        largest = _LARGEST[self.A.dtype.itemsize] ** (0.5 if squared else 1.0)
        if size == 0 or 1.0 / largest < size < largest:
            return
        factor = float(np.ldexp(1.0, int(np.clip(-np.log2(size), -1000, 1000))))
        raise InvalidInputError(
            f"products with {self.A!r} have norms near {size:.1e}, whose squares leave the range of {self.A.dtype}. "
            f"Pass {factor:.3g} * A, whose eigenvalues are as many times those of A, and whose solutions as many times "
            f"smaller; a loss of this size is best rescaled itself."
        )

    @property
    def clean_asymmetry(self) -> float:
        """Largest relative asymmetry that rounding explains."""
        if self.A.precision > 1e-5:
            return 1e-2
        # Clean float32 networks read 2e-7 to 4e-7, clean ill-conditioned dense matrices up to 4e-6.
        return 1e-5 if self.A.domain.epsilon > 1e-10 else 1e-12

    @property
    def refused_asymmetry(self) -> float:
        """Relative asymmetry from which on an operator is not symmetric."""
        return 5e-2 if self.A.precision > 1e-5 else 1e-3

    def note_asymmetry(self, relative: float, vector: Array | None = None) -> None:
        r"""Take in an asymmetry relative to the operator's norm.

        Parameters
        ----------
        relative : float
            Such as \|u'Av - v'Au\| / \|A\| for unit vectors.
        vector : native vector, optional
            Multiplied twice where the asymmetry is too large, to tell an operator that is not symmetric from one whose
            products are random.

        Raises
        ------
        AsymmetryError, NondeterministicError
            From `refused_asymmetry` on.
        """
        self.asymmetry = max(self.asymmetry, relative)
        if relative <= self.refused_asymmetry:
            return
        if vector is not None:
            self._check_deterministic(vector)
        otherwise = f"{self.name} does not apply" if self._symmetric else "pass it with is_symmetric=False"
        raise AsymmetryError(
            f"{self.A!r} is not symmetric: the relative asymmetry seen after {self.products} products is "
            f"{relative:.1e}. If that is rounding, symmetrize with (A + A.T) / 2 or use float64; if A is not "
            f"meant to be symmetric, {otherwise}."
        )

    def warn_of_noise(self) -> bool:
        """Warn if products were less symmetric than their dtype promises; return whether so."""
        if self.asymmetry <= self.clean_asymmetry:
            return False
        self.warn(
            f"products with {self.A!r} are asymmetric by {self.asymmetry:.1e} relative to its norm, where clean ones "
            f"stay below {self.clean_asymmetry:.0e}: they carry noise (reduced-precision matrix products, atomics, a "
            f"matrix that is only nearly symmetric). Error bounds were widened; run in a higher precision for more.",
            NoiseWarning,
        )
        return True

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        return {"products": self.products, "asymmetry": self.asymmetry}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state: its products are added to those of this run."""
        self._count(state["products"])
        self.asymmetry = max(self.asymmetry, state["asymmetry"])

    def _count_inside(self, inner: Task, products: int) -> None:
        if not isinstance(inner, Run) or inner.A is self.A:
            self._count(products)

    def _finite(self, numbers: list[Floats], product: int) -> list[Floats]:
        # A sum is finite only if all terms are; the terms may be without it.
        with np.errstate(invalid="ignore", over="ignore"):
            total = sum([float(part.sum() if part.ndim else part) for part in numbers])
        if math.isfinite(total) or all(np.isfinite(part).all() for part in numbers):
            return numbers
        raise NonFiniteError(
            f"product {product} with {self.A!r} holds NaN or infinity, or its norm overflows {self.A.dtype}. Check "
            f"the parameters and the data for NaN, and the loss for overflow; a loss whose second derivative is "
            f"infinite somewhere (sqrt at 0, norm at 0) does this too."
        )

    def _check_deterministic(self, vector: Array) -> None:
        once, again = self.A._matvec(vector), self.A._matvec(vector)
        length = self.backend.norm(once)
        deviation, length = self.backend.to_host(self.backend.norm(self.backend.axpy_(again, -1.0, once)), length)
        if deviation > 1e-3 * self.asymmetry * length:
            raise NondeterministicError(
                f"two products of {self.A!r} with the same vector differ by {float(deviation / length):.1e} relative. "
                f"Look for dropout, sampling, data augmentation or a shuffling loader behind the product."
            )
