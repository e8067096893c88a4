"""ParallelObjective: the mean loss over the data of several processes, each of which has the parameters and a part.

Each process computes for its own part, as if it were alone, and never waits meanwhile for the others: where one halves
its batches or looks at a first product, they need not. What they have found is added up, each times its share of all
loss terms; an error of one is an error of all.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Self, TypeVar

from specop.arrays.backend import Array
from specop.arrays.layout import Layout
from specop.arrays.processes import Processes
from specop.errors import InvalidInputError
from specop.objectives.curvature import CurvatureOperator
from specop.objectives.data import Batches
from specop.objectives.data_parallel import DataParallel, ParallelCurvature
from specop.objectives.mean import Objective
from specop.objectives.team import Team, attempt

__all__ = ["ParallelObjective"]

T = TypeVar("T")


class ParallelObjective(Objective):
    """The mean loss over the data of several processes; made by ``objective(..., parallel=True)``.

    All processes make each call together. Vectors are held by all of them together, n/R entries each; parameters, and
    what `unflatten` returns, by each. Samples are numbered process after process.

    Parameters
    ----------
    own : Objective
        Of this process's data.
    team : Team
    """

    def __init__(self, own: Objective, team: Team) -> None:
        # Not that of the base, so that what this class does not know fails instead of answering for a part.
        self.own = own
        self.team = team
        processes = team.processes
        self._data: Batches = own._data
        with processes.together():
            team.check_data(own._data.given)
            own._data.is_part = processes.count > 1
            counts = own.terms, own.samples, own._data.first_shapes, own._data.fingerprint()
        told = processes.exchange(counts)
        self._terms = [terms for terms, *_ in told]
        self._samples = [samples for _, samples, *_ in told]
        own._data.first_sample = sum(self._samples[: processes.index])
        _check_parts(own._data, told)
        self.check_alike()

    # What is shared by all
    def check_alike(self) -> None:
        """Raise InvalidInputError, naming arrays, unless all processes have the same model."""
        processes, autodiff = self.team.processes, self.own._autodiff
        if processes.count == 1:
            return
        told = processes.exchange((autodiff.names, zlib.crc32(repr(autodiff.fingerprint()).encode())))
        if all(one == told[0] for one in told):
            return
        states = processes.exchange(autodiff.named_checksums())
        other = next(number for number, one in enumerate(told) if one != told[0])
        names = [name for name in states[0] if states[other].get(name) != states[0][name]]
        names += [name for name in states[other] if name not in states[0]]
        if not names:
            raise InvalidInputError(
                f"the models of processes 0 and {other} of {processes.count} differ in the modes of their layers or in "
                f"what is selected: call model.eval() in each process, and select the same parameters."
            )
        raise InvalidInputError(
            f"the models of processes 0 and {other} of {processes.count} differ in {len(names)} parameters or buffers, "
            f"such as {names[0]!r}: their curvature would be that of no model. Send those of one to all, such as by "
            f"torch.distributed.broadcast(tensor, 0) for each; batch normalization keeps other running statistics in "
            f"each process."
        )

    @property
    def processes(self) -> Processes:
        """Those that make each call together."""
        return self.team.processes

    @property
    def shares(self) -> list[float]:
        """Each process's share of all loss terms."""
        total = sum(self._terms)
        return [terms / total for terms in self._terms]

    def sum(self, compute: Callable[[], Array], factor: float, whole: Layout) -> Array:
        """Return the sum over processes of what each computes, a vector, times its factor."""
        part, error = attempt(compute)
        found, failed = self.team.sum(part, factor, whole, error is not None)
        if failed:
            self.team.processes.raise_together(error)
        return found

    def all_together(self, compute: Callable[[], T]) -> list[T]:
        """Return what each process computes."""
        with self.team.processes.together():
            found = compute()
        return self.team.processes.exchange(found)

    # What an objective is
    @property
    def n(self) -> int:
        """Number of selected parameters."""
        return self.own.n

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the selected parameters, in the order of the vector."""
        return self.own.names

    @property
    def slices(self) -> dict[str, slice]:
        """Where the entries of each parameter stand in a vector."""
        return self.own.slices

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter."""
        return self.own.shapes

    @property
    def samples(self) -> int:
        """Number of samples in the data of all processes."""
        return sum(self._samples)

    @property
    def terms(self) -> float:
        """Number of loss terms in the data of all processes."""
        return sum(self._terms)

    @property
    def theta(self) -> Array:
        """The current values of the selected parameters, a copy as a vector that all processes hold together."""
        return self.team.own(self.own.theta)

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure, the same in each process, as a vector that they hold together."""
        return self.team.own(self.own.flatten(tree))

    def unflatten(self, vector: Array) -> Any:
        """Return a vector in the structure of the parameters, whole in each process."""
        self._check(vector, "the vector")
        return self.own.unflatten(self.team.whole(vector))

    def loss(self, theta: Array | None = None) -> Array:
        """Return the mean loss as a native scalar, the same bits in each process; see `MeanLoss.loss`."""
        at = self._at_all(theta)
        self.check_alike()
        return self._total(*attempt(lambda: self.own.loss(at)))

    def gradient(self, theta: Array | None = None) -> Array:
        """Return the gradient of the mean loss as a vector that all processes hold together."""
        at = self._at_all(theta)
        self.check_alike()
        return self.sum(lambda: self.own.gradient(at), self._share, self._layout)

    def loss_and_gradient(self, theta: Array | None = None) -> tuple[Array, Array]:
        """Return the mean loss and its gradient from one pass over the data."""
        at = self._at_all(theta)
        self.check_alike()
        found, error = attempt(lambda: self.own.loss_and_gradient(at))
        loss = self._total(None if found is None else found[0], error)
        return loss, self.team.sum(None if found is None else found[1], self._share, self._layout, False)[0]

    def hessian(self, theta: Array | None = None) -> Any:
        """Return the Hessian of the mean loss over the data of all processes; see `Matrices.hessian`."""
        return self._curvature(lambda at: self.own.hessian(at), theta)

    def ggn(self, theta: Array | None = None) -> Any:
        """Return the generalized Gauss-Newton matrix over the data of all processes; see `Matrices.ggn`."""
        return self._curvature(lambda at: self.own.ggn(at), theta)

    def fisher(
        self,
        theta: Array | None = None,
        *,
        kind: str = "exact",
        of: str | None = None,
        draws: int = 1,
        seed: int = 0,
    ) -> Any:
        """Return a Fisher matrix over the data of all processes; see `Matrices.fisher`.

        Draws belong to a sample's number, and samples are numbered process after process.
        """
        if isinstance(theta, str):
            raise InvalidInputError(f"theta is a parameter vector, got {theta!r}. Pass fisher(kind={theta!r}).")
        return self._curvature(lambda at: self.own.fisher(at, kind=kind, of=of, draws=draws, seed=seed), theta)

    def finite_difference_hessian(self, theta: Array | None = None) -> Any:
        """Return the Hessian by differences of gradients; each process takes its own step."""
        at = self._at_all(theta)
        self.check_alike()
        with self.processes.together():
            own = self.own.finite_difference_hessian(at)
        return DataParallel(own, self, self._share)

    def restrict(self, select: Any) -> Self:
        """Return the objective as a function of a part of its parameters; the others stay where they are."""
        with self.processes.together():
            own = self.own.restrict(select)
        return type(self)(own, self.team)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold the model of each process in evaluation mode; see `MeanLoss.evaluating`."""
        with self.own.evaluating():
            yield

    def release(self) -> None:
        """Free the linearizations that are kept for further products; they are made again when needed."""
        self.own.release()

    def __repr__(self) -> str:
        return f"{repr(self.own)[:-1]}, data of {self.processes.count} processes>"

    # What would answer for a part
    def per_sample_gradients(self, theta: Array | None = None, *, block_bytes: int | None = None) -> NoReturn:
        """Refused: they are not available over several processes yet."""
        raise self._missing("per_sample_gradients")

    def importance(self, theta: Array | None = None) -> NoReturn:
        """Refused: each process knows that of its own samples only."""
        raise self._missing("importance")

    def inverse_fisher(self, **options: Any) -> NoReturn:
        """Refused: it is made of samples' gradients."""
        raise self._missing("inverse_fisher")

    def jacobian(self, theta: Array | None = None) -> NoReturn:
        """Refused: its rows would be of all processes' outputs."""
        raise self._missing("jacobian")

    def batches(self) -> NoReturn:
        """Refused: a batch belongs to one process."""
        raise self._missing("batches")

    def subset(self, indices: Any) -> NoReturn:
        """Refused: a process may be left without samples."""
        raise self._missing("subset")

    def update_rule(self, optimizer: Any, gradient: Array) -> NoReturn:
        """Refused: an optimizer's state may be a part of it."""
        raise self._missing("update_rule")

    def _missing(self, name: str) -> InvalidInputError:
        return InvalidInputError(
            f"{name} is not available with parallel=True, over the data of {self.processes.count} processes. Give one "
            f"process all data, and pass parallel=False there."
        )

    @property
    def _share(self) -> float:
        return self.shares[self.processes.index]

    @property
    def _layout(self) -> Layout:
        return self.own._autodiff.layout

    def _check(self, vector: Array, what: str) -> None:
        self.team.backend.check_vector(vector, self.team.layout(self._layout), what)

    def _at_all(self, theta: Array | None) -> Array | None:
        if theta is None:
            return None
        self._check(theta, "theta")
        return self.team.whole(theta)

    def _total(self, part: Array | None, error: BaseException | None) -> Array:
        found, failed = self.team.total(part, self._share, error is not None)
        if failed:
            self.processes.raise_together(error)
        return found

    def _curvature(self, make: Callable[[Any], CurvatureOperator], theta: Array | None) -> ParallelCurvature:
        at = self._at_all(theta)
        with self.processes.together():
            own = make(at)
        factor = self._share
        if own.products[0].matrix.kind == "empirical fisher of samples":
            # The mean over samples of g g', where g is the number of samples times what one adds to the mean gradient.
            factor *= factor * self.samples / self._samples[self.processes.index]
        return ParallelCurvature(own, self, factor)


def _check_parts(data: Batches, told: Sequence[tuple[float, int, Any, Any]]) -> None:
    for number, (_, _, shapes, seen) in enumerate(told):
        if number and shapes != told[0][2] and None not in (shapes, told[0][2]):
            raise data.unlike(f"the first batch of process {number}", shapes, told[0][2])
        for earlier in range(number):
            if told[earlier][3] == seen:
                raise InvalidInputError(
                    f"processes {earlier} and {number} of {len(told)} have the same data, to the last bit. With "
                    f"parallel=True each is to have a part of all, as by torch.utils.data.DistributedSampler(dataset, "
                    f"shuffle=False); where each has all data pass parallel=False."
                )
