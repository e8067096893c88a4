"""Monitor: curvature while a model is trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specop.arrays.backend import backend_of, numbers_of
from specop.arrays.probes import check_seed
from specop.arrays.processes import ALONE, Processes
from specop.errors import InvalidInputError, MissingStateError, NonFiniteError, NonFiniteWarning, checked_number
from specop.krylov.task import Task
from specop.objectives.mean import Objective
from specop.results.history import HistoryResult, Moment
from specop.results.result import versions
from specop.results.structure import Structure
from specop.statistics.estimate import Estimate, exact
from specop.training._checks import (
    check_model,
    check_schedule,
    check_together,
    checked_step,
    checked_what,
    earlier_history,
    shared_history,
)
from specop.training._quantities import CONFIDENCE, QUANTITIES, Point
from specop.training._rows import Rows
from specop.training._schedule import Schedule

__all__ = ["Monitor"]

_USUAL = ("lambda_max", "stability")


class Monitor:
    r"""Follow the curvature of a model through its training, without changing a bit of it.

    Call `record` after each step, or as often as you like: it does something only when that is due, and `history` is
    what it found. During a record the model is in evaluation mode; modes, random states and the model itself are left
    bit for bit as they were, so that a run with a monitor ends in the same bits as one without.

    Each record is of the mean loss over the objective's own data: a sample that stays the same through training, such
    as 500 training samples in a list of batches. Products cost about two gradients of that sample each.

    Parameters
    ----------
    objective : Objective or callable
        The loss, made by `specop.objective`. It follows a module through training: compiled modules and those in
        DistributedDataParallel are seen through, ``autocast`` is switched off. Or a function that returns an objective,
        called for each record; with `params` it is given these. That is for models that become other objects while
        they are trained, or that move to another device first.
        Of several processes (``parallel=True`` or a mesh) each makes its monitor and calls `record` at each step, with
        the same `every`; the first one reads and writes the file. With ``parallel=False`` one process records alone,
        while the others wait.
    every : int, optional
        Steps between records. What that costs is said by ``history.share``.
    budget : float
        Without `every`: largest share of the time that records may take. The first call records; from then on the
        monitor waits until the next record is within the budget. Time is measured from the first call on.
    what : str, sequence of str, or dict
        What to record, of those below. In a dict each has keywords for the function behind it:
        ``{"lambda_max": {}, "trace": {"rtol": 0.05}, "eigenvalues": {"k": 10}}``.

        - "lambda_max": the largest eigenvalue of the Hessian, to a relative residual of 1e-2 (`tol`): its error bounds
          the distance to some eigenvalue. It starts from the eigenvector of the record before, in about two thirds of
          the products of a fresh start, most of which rule out that something larger was missed; "lambda_max_level" is
          what no eigenvalue exceeds, with a probability of 99 %, and where its interval ends. Each tenth record starts
          afresh.
        - "eigenvalues": the five (`k`) largest, `specop.eigsh`, as "eigenvalue_1", the largest, to "eigenvalue_5".
        - "trace": `specop.trace` to ten percent (`rtol`).
        - "density": `specop.spectral_density`; its mean, its mean square and the mean of its negative part.
        - "stability": `specop.landscape.stability`, the "sharpness" that the optimizer's steps see, preconditioned
          where they are, its "limit", and their "ratio". By default recorded where `optimizer` or `lr` are known.
        - "noise": `specop.landscape.noise`, "simple_scale" and "curvature_scale".
        - "flatness": `specop.landscape.flatness`, as "flatness_trace" and so on; with all `measures` it takes about 300
          products.
    optimizer : optimizer, optional
        The optimizer that trains the model, for "stability"; as there.
    lr : float or callable, optional
        Without an optimizer: the learning rate of gradient descent, or a schedule, ``lr(step)``, such as optax has
        them. The history has "lr" where it is known, and its plot shows 2 / lr.
    history : HistoryResult or path, optional
        A history that goes on, such as after a crash. With a path, it is read from there if the file exists, and
        written after each record: the same script, started again, then continues it.
    seed : int
        Seed of random vectors, the same for all records.

    Attributes
    ----------
    history : HistoryResult
        All records so far: ``history["lambda_max"]``, ``.plot()``, ``.to_frame()``, ``.save("run.npz")``.

    Raises
    ------
    InvalidInputError
        For a history of another model or of another number of samples, and arguments out of range.

    Notes
    -----
    Parameters that are not finite do not stop the training: a warning says at which step and which ones, the record is
    NaN, and later ones cost one loss each until the loss is finite again.

    Examples
    --------
    >>> import torch, specop
    >>> model = torch.nn.Linear(3, 1)
    >>> x, y = torch.randn(64, 3), torch.randn(64, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> objective = specop.objective(model, torch.nn.functional.mse_loss, (x[:32], y[:32]))
    >>> monitor = specop.training.Monitor(objective, every=10, what="lambda_max", lr=0.1)
    >>> for step in range(20):
    ...     optimizer.zero_grad()
    ...     torch.nn.functional.mse_loss(model(x), y).backward()
    ...     optimizer.step()
    ...     record = monitor.record(step + 1)
    >>> monitor.history.steps
    array([ 1, 11])
    >>> bool((monitor.history["lambda_max"] < 2 / 0.1).all())
    True

    In JAX parameters are new objects after each step, and are passed on:

    >>> import jax.numpy as jnp
    >>> def loss(params, batch):
    ...     return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)
    >>> params, batch = {"w": jnp.zeros(3)}, (jnp.ones((4, 3)), jnp.ones(4))
    >>> monitor = specop.training.Monitor(specop.objective(loss, params=params, data=batch), what="lambda_max")
    >>> round(monitor.record(1, params={"w": jnp.ones(3)})["lambda_max"].estimate, 4)
    6.0
    """

    def __init__(
        self,
        objective: Objective | Callable[..., Objective],
        *,
        every: int | None = None,
        budget: float = 0.1,
        what: str | Iterable[str] | Mapping[str, Mapping[str, Any]] = _USUAL,
        optimizer: Any = None,
        lr: float | Callable[[int], Any] | None = None,
        history: HistoryResult | str | os.PathLike[str] | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(objective, Objective) and not callable(objective):
            raise InvalidInputError(
                f"Monitor takes an objective, made by specop.objective(model, criterion, data), or a function that "
                f"returns one; got {type(objective).__name__}."
            )
        self._objective = objective
        self._what = checked_what(what)
        self._may_lack_limit = what is _USUAL
        self._optimizer = optimizer
        self._lr = lr if lr is None or callable(lr) else checked_number("lr", _number(lr), positive=True)
        self._seed = check_seed(seed)
        self._path = Path(history) if isinstance(history, (str, os.PathLike)) else None
        if isinstance(objective, Objective):
            check_schedule(objective.processes, every)
            earlier = shared_history(objective.processes, history)
        else:
            earlier = earlier_history(history)
        self._rows = Rows.of(earlier)
        self._schedule = Schedule(
            every,
            budget,
            elapsed=0.0 if earlier is None else earlier.elapsed,
            spent=0.0 if earlier is None else earlier.seconds,
            last_step=self._rows.last_step,
            last_cost=self._rows.seconds[-1] if self._rows.seconds else 0.0,
        )
        self._is_resumed = self._may_go_back = earlier is not None
        self._is_still = False
        self._notes: dict[str, None] = {} if earlier is None or not earlier.notes else {earlier.notes: None}
        self._known: dict[str, Any] = {}
        self._at_last: tuple[float, float] | None = None
        self._structure = Structure({}) if earlier is None else earlier.structure
        self._samples = None if earlier is None else earlier.samples
        self._framework = "numpy"
        if earlier is not None and isinstance(objective, Objective):
            self._check_model(objective)

    def record(self, step: int, *, params: Any = None, optimizer: Any = None) -> Moment | None:
        """Record the curvature if that is due.

        Parameters
        ----------
        step : int
            Steps that the optimizer has taken, over all epochs; at the step of the last record nothing is due. After a
            history was passed it may go back once: later records, of training that was lost, are dropped.
        params : structure of arrays, optional
            The parameters, where they are new objects after each step: in the structure that the objective was made
            with. A function that returns objectives is given them, and they may be anything.
        optimizer : optimizer, optional
            For a monitor without `optimizer` and `lr`, such as where its state is a new object after each step.

        Returns
        -------
        Moment or None
            The numbers of this record with their errors; None if none was due.

        Raises
        ------
        InvalidInputError
            For a step before the last record, and for an objective of another model, or of another number of samples,
            than the records so far.
        """
        step = self._checked_step(step)
        if not self._schedule.is_due(step) or step == self._rows.last_step:
            return None
        objective = self._objective_now(params)
        processes = objective.processes
        check_together(processes, step, self._rows.last_step)
        self._check_model(objective)
        with objective.evaluating():
            theta = objective.flatten(params) if params is not None and isinstance(self._objective, Objective) else None
            now = objective.theta if theta is None else theta
            backend = backend_of(now)
            # A device may still be busy with steps of training: waiting for them is not the record's time.
            (length,) = numbers_of(backend, backend.norm(now))
            self._schedule.begin(step)
            with Task("monitor", backend, processes, seed=self._seed) as task:
                steps_by = self._optimizer if optimizer is None else optimizer
                point = Point(
                    objective, theta, len(self._rows.steps), self._seed, self._known, steps_by, self._rate(step)
                )
                estimates, gap = self._measured(task, point, step, length)
        moment = Moment(step, estimates, point.results, task.products, self._schedule.lap(), processes.of_first(gap))
        self._rows.append(moment)
        self._framework = backend.name
        self._notes |= task.notes
        if self._path is not None:
            with processes.together():
                if processes.index == 0:
                    self.history.save(self._path)
            self._schedule.lap()
        return moment

    @property
    def history(self) -> HistoryResult:
        """All records so far."""
        rows = self._rows
        names = tuple(dict.fromkeys(name for row in rows.values for name in row))
        table = [[[row.get(name, np.nan) for name in names] for row in part] for part in (rows.values, rows.errors)]
        values, errors = (np.array(part, dtype=float).reshape(len(rows.steps), len(names)) for part in table)
        return HistoryResult(
            steps=np.array(rows.steps, dtype=np.int64),
            quantities=names,
            values=values,
            errors=errors,
            record_seconds=np.array(rows.seconds, dtype=float),
            record_matvecs=np.array(rows.matvecs, dtype=np.int64),
            elapsed=self._schedule.elapsed,
            every=self._schedule.every,
            budget=self._schedule.budget,
            structure=self._structure,
            matvecs=sum(rows.matvecs),
            seconds=self._schedule.spent,
            samples=self._samples,
            seed=self._seed,
            converged=True,
            message="converged",
            versions=versions(self._framework),
            notes="; ".join(self._notes),
            gaps=dict(rows.gaps),
        )

    @property
    def processes(self) -> Processes:
        """Those that record together: of the objective; a function that makes one is taken to be of this process."""
        return self._objective.processes if isinstance(self._objective, Objective) else ALONE

    def plot(self, ax: Any = None, *, label: str | None = None, color: Any = None, quantity: str | None = None) -> Any:
        """Draw the history so far, as `specop.results.HistoryResult.plot` does."""
        return self.history.plot(ax, label=label, color=color, quantity=quantity)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the history so far to an npz file that `specop.load` reads."""
        self.history.save(path)

    def __repr__(self) -> str:
        return f"<Monitor of {', '.join(self._what)}: {self.history._headline()}>"

    def _measured(self, task: Task, point: Point, step: int, length: float) -> tuple[dict[str, Estimate], str]:
        """Return the numbers at this point, and why there are not all of them."""
        found = {} if point.lr is None else {"lr": exact(point.lr, CONFIDENCE)}
        numbers, gap = dict[str, dict[str, Estimate]](), ""
        try:
            (loss,) = numbers_of(point.hessian.backend, point.objective.loss(point.theta))
            self._warn_of_standstill(task, step, loss, length)
            found = {"loss": exact(loss, CONFIDENCE)} | found
            for name, quantity in QUANTITIES.items():
                if name in self._what and not self._lacks_limit(name, point):
                    try:
                        numbers[name] = quantity(point, **self._what[name])
                    except MissingStateError as error:
                        # The record before the first step; what comes after it needs no optimizer.
                        self._notes[f"step {step}: {error}"] = None
        except NonFiniteError as error:
            gap = str(error)
            if not self._rows.ends_in_gap:
                task.warn(
                    f"at step {step} nothing could be recorded: {gap} Training goes on; so does the history, once the "
                    f"loss is finite.",
                    NonFiniteWarning,
                )
        finally:
            # What linearizations hold, training needs.
            point.objective.release()
        for name in self._what:
            found |= numbers.get(name, {})
        return found, gap

    def _lacks_limit(self, name: str, point: Point) -> bool:
        return name == "stability" and self._may_lack_limit and point.optimizer is None and point.lr is None

    def _rate(self, step: int) -> float | None:
        if self._lr is None:
            return None
        # A schedule may begin and end at zero.
        return checked_number(f"lr({step})", _number(self._lr(step))) if callable(self._lr) else float(self._lr)

    def _objective_now(self, params: Any) -> Objective:
        if isinstance(self._objective, Objective):
            return self._objective
        made = self._objective() if params is None else self._objective(params)
        if not isinstance(made, Objective):
            raise InvalidInputError(
                f"the function that Monitor was given returned {type(made).__name__}; it must return what "
                f"specop.objective(model, criterion, data) makes."
            )
        check_schedule(made.processes, self._schedule.every)
        return made

    def _check_model(self, objective: Objective) -> None:
        """Raise InvalidInputError unless the objective is of the history's model and of as many samples."""
        if self._samples is None:
            self._structure, self._samples = Structure(objective.shapes), objective.samples
            return
        whose = "the history that was passed" if self._is_resumed else "the history so far"
        check_model(whose, self._structure, self._samples, objective)

    def _checked_step(self, step: Any) -> int:
        found, last = checked_step(step), self._rows.last_step
        if last is not None and found < last:
            if not self._may_go_back:
                raise InvalidInputError(
                    f"step must not fall: got {found} after a record at step {last}. Count steps over all epochs."
                )
            self._rows.drop_from(found)
            self._schedule.last_step = self._rows.last_step
        self._may_go_back = False
        return found

    def _warn_of_standstill(self, task: Task, step: int, loss: float, length: float) -> None:
        """Warn if loss and parameters are exactly those of the last record: they may be a copy from before training."""
        if self._at_last == (loss, length) and not self._is_still:
            self._is_still = True
            task.warn(
                f"at step {step} the parameters are those of the last record. Where training makes new ones in each "
                f"step, as in JAX, pass them: monitor.record(step, params=params), or give Monitor a function that "
                f"returns an objective of the present ones.",
                UserWarning,
            )
        self._at_last = loss, length


def _number(lr: Any) -> Any:
    """Return the number in an array of one, as schedules give them."""
    return lr.item() if hasattr(lr, "item") and np.size(lr) == 1 else lr
