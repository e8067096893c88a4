"""Products with a matrix of all data: what each batch adds, linearized or recomputed as the memory budget allows."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from specop.arrays.backend import Array, Backend, numbers_of
from specop.objectives.agreement import Verdict
from specop.objectives.autodiff import Matrix
from specop.objectives.point import Point
from specop.objectives.splitting import block_bytes, fitting, gradient_blocks
from specop.objectives.trained import check_uncoupled, reading
from specop.objectives.witness import verify

__all__ = ["Multiply", "Plan", "Products", "accumulate", "are_adjoint"]

Multiply = Callable[[Array], Array]

# Gradients that a product costs, linearized and recomputed; see docs/benchmarks.md.
_HESSIAN_COSTS = 1.7, 3.1
_OTHER_COSTS = 1.3, 3.0


@dataclass(frozen=True)
class Plan:
    """How products with a matrix are computed.

    Attributes
    ----------
    batches : int
        Parts of the data, smaller than the user's batches if these did not fit into memory.
    kept : int
        Parts whose data are held by the objective or by the user; the others are read again from their source.
    linearized, recomputed : int
        Parts whose linearization is held, and whose products are computed anew.
    bytes : int
        Memory that linearizations hold.
    cost : float
        What a product costs about, in gradients of the same objective.
    """

    batches: int
    kept: int
    linearized: int
    recomputed: int
    bytes: int
    cost: float


class Products:
    """Products at one point: linearizations as far as the memory budget goes, recomputation beyond it.

    Parameters
    ----------
    point : Point
        Parameters, data and derivatives; its budget says how much memory linearizations may take.
    matrix : Matrix
        Which symmetric matrix is multiplied.

    Attributes
    ----------
    verdict : Verdict or None
        What differences say of the first product, once there was one.
    """

    def __init__(self, point: Point, matrix: Matrix) -> None:
        self.point = point
        self.matrix = matrix
        self.verdict: Verdict | None = None
        self.release()

    def release(self) -> None:
        """Forget all linearizations; the next product makes new ones."""
        self._linear: list[Multiply | None] | None = None
        self._places: list[tuple[float, int]] = []
        self._bytes = self._largest = 0
        self._witness: tuple[Array, Array] | None = None
        self._loss: float | None = None
        self._mistrusted = False
        self._cut = self.point.data.cut

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_linear": None, "_places": [], "_bytes": 0, "_witness": None}

    @property
    def held_bytes(self) -> int:
        """Memory that linearizations hold."""
        return self._bytes

    @property
    def working_bytes(self) -> int:
        """Memory that the next product may take beside its vectors, at most about.

        Before the first one that is the budget; then a batch's linearization tells what passes over its layers take,
        twice where it is made anew.
        """
        if self._linear is None:
            return self.point.budget.room()
        return self._largest * (2 if None in self._linear else 1)

    @property
    def are_settled(self) -> bool:
        """Whether the next product is replayed from what is held: it runs no code of the user's and reads no data."""
        return self._linear is not None and None not in self._linear and self._witness is None and not self._is_split

    def are_current(self) -> bool:
        """Whether the loss of the first batch is what it was when it was linearized.

        A criterion may read more than the model's state: weights of classes, a factor that a schedule changes, a hook.
        One forward pass tells. Where functions are compiled such values are those of the first call anyway.
        """
        if self._loss is None:
            return True
        point = self.point
        same = abs(fitting(point, self._first_loss) - self._loss) <= 100.0 * point.autodiff.precision * abs(self._loss)
        return not point.backend.processes(point.autodiff.layout).any(not same)

    def __call__(self, vector: Array) -> Array:
        """Return the product with a vector, in fresh storage."""
        self.point.budget.use(self)
        return fitting(self.point, self._multiply, vector)

    def combined(self, vector: Array, combine: Callable[[Multiply, Array], Array]) -> Array:
        """Return the sum over batches of what `combine` makes of several products with the batch's own matrix.

        A batch whose linearization is not kept is linearized once for all of them.

        Parameters
        ----------
        vector : native vector
        combine : callable
            ``combine(multiply, vector)`` calls ``multiply`` for each product.
        """
        self.point.budget.use(self)
        return fitting(self.point, self._combine, vector, combine)

    def over_samples(self, vector: Array, add: Callable[[Array | None, Array, float, Array], Array]) -> Array:
        """Return what `add` accumulates over blocks of the samples' gradients.

        Parameters
        ----------
        vector : native vector
        add : callable
            ``add(total, rows, factor, vector)``; the empirical Fisher matrix is the sum of ``factor * rows.T @ rows``.
        """
        self.point.budget.use(self)
        return fitting(self.point, self._over_samples, vector, add)

    def recomputed(self, vector: Array) -> Array:
        """Return the product with a vector by automatic differentiation, whatever is kept."""
        return self._add_up(vector, None)

    def plan(self, vector: Array) -> Plan:
        """Return how products are computed; the vector is multiplied if none was before."""
        if self._linear is None:
            self(vector)
        assert self._linear is not None
        held = [apply is not None for apply in self._linear]
        fast, slow = _HESSIAN_COSTS if self.matrix.kind == "hessian" else _OTHER_COSTS
        cost = sum(share * (fast if linear else slow) for linear, (share, _) in zip(held, self._places, strict=True))
        return Plan(
            batches=len(held),
            kept=len(held) if self.point.data.are_kept else 0,
            linearized=sum(held),
            recomputed=len(held) - sum(held),
            bytes=self._bytes,
            cost=cost,
        )

    @property
    def _is_split(self) -> bool:
        """Whether the data are read in smaller pieces than those that were linearized."""
        return self._cut != self.point.data.cut

    def _multiply(self, vector: Array) -> Array:
        if self._is_split:
            self.release()
        if self._linear is None:
            return self._linearize(vector)
        product = self._add_up(vector, self._linear)
        if self._witness is not None and not self._agrees(vector, product, *self._witness):
            self._mistrusted = True
            self._linear = [None] * len(self._linear)
            self._bytes = 0
            product = self._add_up(vector, self._linear)
        self._witness = None
        return product

    def _combine(self, vector: Array, combine: Callable[[Multiply, Array], Array]) -> Array:
        while self._linear is None or self._witness is not None or self._is_split:
            self._multiply(vector)
        total: Array | None = None
        with self._reading(self._linear) as batches:
            for kept, (batch, share, first) in zip(self._linear, batches, strict=True):
                multiply = kept or self._linearized_once(batch, first)
                total = self._add(total, share, first, combine(multiply, vector))
        return total

    def _over_samples(self, vector: Array, add: Callable[[Array | None, Array, float, Array], Array]) -> Array:
        total: Array | None = None
        with reading(self.point) as batches:
            for batch, share, _ in batches:
                for rows in gradient_blocks(self.point, batch, block_bytes(self.point)):
                    total = add(total, rows, self._factor(share), vector)
        return total

    def _linearized_once(self, batch: Any, first: int) -> Multiply:
        made: list[Multiply] = []
        matrix = self._matrix_at(first)

        def multiply(vector: Array) -> Array:
            if self._mistrusted:
                return self.point.autodiff.product(self.point.theta, batch, vector, matrix)
            if made:
                return made[0](vector)
            linearization = self.point.autodiff.linearize(self.point.theta, batch, vector, matrix)
            made.append(linearization.apply)
            return linearization.first

        return multiply

    def _linearize(self, vector: Array) -> Array:
        autodiff, theta, budget = self.point.autodiff, self.point.theta, self.point.budget
        reach, largest, held = budget.reach(), 0, 0
        linear: list[Multiply | None] = []
        total: Array | None = None
        places: list[tuple[float, int]] = []
        example: tuple[Any, Multiply | None, int] | None = None
        loss: float | None = None
        with self._batches() as batches:
            for batch, share, first in batches:
                # Before anything is held beside it. A Jacobian asks no criterion.
                if not places and autodiff.witness_samples is not None and "jacobian" not in self.matrix.kind:
                    (loss,) = numbers_of(autodiff.backend, autodiff.loss(theta, batch))
                places.append((share, first))
                operand, matrix = self._operand(vector, first), self._matrix_at(first)
                # Batches are much alike: the largest so far tells whether another one is worth a try.
                if largest <= reach - held:
                    made = autodiff.linearize(theta, batch, operand, matrix)
                    largest = max(largest, made.bytes)
                    fits = made.bytes <= reach - held
                    if fits:
                        held += made.bytes
                        budget.leave(reach - held, self)
                    linear.append(made.apply if fits else None)
                    part = made.first
                else:
                    linear.append(None)
                    part = autodiff.product(theta, batch, operand, matrix)
                total = self._add(total, share, first, part)
                example = example or (batch, linear[-1], largest)
        if self.verdict is None and example is not None:
            self.verdict = verify(self.point, *example[:2], self._matrix_at(0), example[2])
        if self.matrix.kind.startswith("empirical fisher") and example is not None:
            check_uncoupled(self.point, example[0])
        # All at the end, so that a pass that fails leaves nothing behind.
        self._linear, self._places, self._bytes, self._largest = linear, places, held, largest
        self._loss = loss
        self._witness = (autodiff.backend.copy(vector), autodiff.backend.copy(total))
        return total

    def _first_loss(self) -> float:
        with self.point.data.reading() as batches:
            batch, _, _ = next(batches)
            return numbers_of(self.point.backend, self.point.autodiff.loss(self.point.theta, batch))[0]

    def _add_up(self, vector: Array, linear: list[Multiply | None] | None) -> Array:
        """Return the product by what is kept, or by recomputation."""
        total: Array | None = None
        data = self.point.data
        with self._reading(linear) as batches:
            numbered = enumerate(batches)
            while together := list(itertools.islice(numbered, data.devices)):
                tasks = [
                    self._task(self._operand(vector, first), batch, first, None if linear is None else linear[number])
                    for number, (batch, _, first) in together
                ]
                for (_, (_, share, first)), part in zip(together, data.at_once(tasks), strict=True):
                    total = self._add(total, share, first, part)
        return total

    def _task(self, operand: Array, batch: Any, first: int, apply: Multiply | None) -> Callable[[], Array]:
        if apply is not None:
            return functools.partial(apply, operand)
        product = self.point.autodiff.product
        return functools.partial(product, self.point.theta, batch, operand, self._matrix_at(first))

    def _reading(self, linear: list[Multiply | None] | None) -> Any:
        # Where everything is kept there is no need to touch the data.
        if linear is None or None in linear:
            return self._batches()
        return nullcontext((None, *place) for place in self._places)

    def _batches(self) -> Any:
        # A Jacobian is of all outputs, whatever the criterion makes of them.
        return self.point.data.reading() if "jacobian" in self.matrix.kind else reading(self.point)

    def _matrix_at(self, first: int) -> Matrix:
        # Others do not depend on it, and an adapter may compile for each matrix that it sees.
        return replace(self.matrix, first=first) if self.matrix.kind == "sampled fisher" else self.matrix

    def _operand(self, vector: Array, first: int) -> Array:
        return vector

    def _add(self, total: Array | None, share: float, first: int, part: Array) -> Array:
        return accumulate(self.point.backend, total, self._factor(share), part)

    def _factor(self, share: float) -> float:
        if self.matrix.kind == "empirical fisher of samples":
            # Rows are what samples add to the mean gradient of their batch: a fraction 1/m of the whole one's terms.
            return share * share * self.point.data.samples
        return share

    def _agrees(self, vector: Array, product: Array, witness: Array, witnessed: Array) -> bool:
        """Whether the first replayed product fits the one that automatic differentiation computed."""
        return are_adjoint(self.point, vector, product, witness, witnessed)


def are_adjoint(point: Point, x: Array, image: Array, y: Array, transposed: Array) -> bool:
    """Whether ``y'(A x) = x'(A'y)`` to within rounding, for ``image = A x`` and ``transposed = A'y``."""
    backend = point.backend
    left, right, *lengths = backend.to_host(
        backend.dot(y, image),
        backend.dot(x, transposed),
        *(backend.norm(vector) for vector in (x, image, y, transposed)),
    )
    # y'(A x) is at most |y||A x|, and x'(A'y) at most |x||A'y|.
    scale = float(lengths[2] * lengths[1] + lengths[0] * lengths[3])
    # Not finite: let the algorithm that asked say so.
    return not bool(abs(left - right) > point.autodiff.precision**0.5 * scale)


def accumulate(backend: Backend, total: Array | None, share: float, part: Array) -> Array:
    """Return ``total + share * part``; both are consumed."""
    return backend.scale_(part, share) if total is None else backend.axpy_(total, share, part)
