"""compare: how much flatter one point is than another, measure by measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specop.arrays.backend import backend_of
from specop.arrays.processes import ALONE
from specop.errors import InvalidInputError
from specop.krylov.task import Task
from specop.landscape._flatness import flatness
from specop.objectives.mean import Objective
from specop.results.comparison import ComparisonResult, Difference
from specop.results.flatness import FlatnessResult, Measure

__all__ = ["compare"]

# What both must agree in, or their measures are not the same ones.
_SETTINGS = ("prior", "box", "ball", "adaptive_ball", "adaptive_offset", "sigma", "rise", "relative_offset")
_COUNTS = ("draws", "probes")


def compare(
    a: Objective | FlatnessResult,
    b: Objective | FlatnessResult,
    *,
    names: Sequence[str] = ("a", "b"),
    measures: Sequence[str] | None = None,
    confidence: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> ComparisonResult:
    r"""Put the flatness of two points side by side, with differences and whether they are more than chance.

    The interval of a difference joins those of both measures [1]_: with estimates x and y, and y between l and u,

    .. math:: y - x - \sqrt{(y - l_y)^2 + (u_x - x)^2} \le \text{difference}
              \le y - x + \sqrt{(u_y - y)^2 + (x - l_x)^2}.

    A difference is significant if that interval is without zero. Measures that are lower bounds have no upper limit,
    and no significant difference: the result gives what was found of both, by the same search.

    Parameters
    ----------
    a, b : Objective or FlatnessResult
        Two points, such as the same model after two trainings: two objectives, or results of `flatness`, also from
        files. An objective beside a result is measured with the settings of the result; two objectives with the default
        ones, in which the prior is that of the samples of a.
    names : sequence of two str
        Names of the two models, in tables and plots.
    measures : sequence of str, optional
        Names of the measures to compare; default: all, or those that given results hold.
    confidence : float, optional
        Probability with which each measure's interval holds; default: that of a result that is given, or 0.95. Of
        fifteen differences without cause about one in twenty is then significant.
    seed : int
        Seed of the random vectors where an objective is measured.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    ComparisonResult
        ``measures`` by name: the difference b - a, an estimate, with `a`, `b`, `significant` and `invariant`; `flatter`
        names the flatter one, and `plot` draws the ratios.

    Raises
    ------
    InvalidInputError
        If two results were measured with other settings, or have no measure in common.

    References
    ----------
    .. [1] G. Y. Zou and A. Donner, Construction of confidence limits about effect measures: a general approach,
       Statistics in Medicine 27 (2008), 1693-1702.

    Examples
    --------
    >>> import torch, specop
    >>> def objective(curvature):
    ...     def loss(params, batch):
    ...         return 1 + curvature * (params["w"] ** 2).sum()
    ...     return specop.objective(loss, params={"w": torch.zeros(3)}, data=torch.zeros(1, 1))
    >>> found = specop.landscape.compare(objective(1.0), objective(4.0), measures=["trace"], names=("wide", "sharp"))
    >>> round(found.measures["trace"].estimate, 4), found.flatter["trace"]
    (18.0, 'wide')
    """
    objective = next((one for one in (a, b) if isinstance(one, Objective)), None)
    home = backend_of(np.zeros(0)) if objective is None else objective.backend
    processes = ALONE if objective is None else objective.processes
    task = Task("compare", home, processes, seed=seed, progress=progress)
    if len(names) != 2 or len(set(names)) != 2:
        raise InvalidInputError(f"names must be two different texts, got {names!r}.")
    for one in (a, b):
        if not isinstance(one, FlatnessResult) and not isinstance(one, Objective):
            raise InvalidInputError(f"compare takes objectives and results of flatness, got {type(one).__name__}.")
    first = next((one for one in (a, b) if isinstance(one, FlatnessResult)), None)
    with task:
        found: list[FlatnessResult] = []
        for one in (a, b):
            like = first or (found[0] if found else None)
            found.append(one if isinstance(one, FlatnessResult) else _measured(one, like, measures, confidence, seed))
        _check_settings(found[0], found[1], confidence)
        shared = [name for name in found[0].measures if name in found[1].measures]
        wanted = shared if measures is None else list(measures)
        missing = [name for name in wanted if name not in shared]
        if missing or not wanted:
            raise InvalidInputError(
                f"both must have the measures that are compared: {', '.join(missing) or 'any'} is not among "
                f"{', '.join(found[0].measures)} and {', '.join(found[1].measures)}. Pass measures= to flatness."
            )
        differences = {name: _difference(*(one.measures[name] for one in found)) for name in wanted}
        return task.result(
            ComparisonResult,
            measures=differences,
            names=tuple(map(str, names)),
            losses=(found[0].loss, found[1].loss),
            sizes=(found[0].n, found[1].n),
            confidence=found[0].confidence,
            remark=_remark(found, names),
            converged=True,
            message=f"{len(differences)} measures",
        )


def _measured(
    objective: Objective,
    like: FlatnessResult | None,
    measures: Sequence[str] | None,
    confidence: float | None,
    seed: int,
) -> FlatnessResult:
    """Return the flatness of an objective, with the settings of another result if there is one."""
    options: dict[str, Any] = {"measures": measures, "confidence": 0.95 if confidence is None else confidence}
    if like is not None:
        options |= {name: like.settings[name] for name in (*_SETTINGS, *_COUNTS)}
        options["confidence"] = like.confidence if confidence is None else confidence
        if measures is None:
            options["measures"] = list(like.measures)
        if like.settings.get("layer") in objective.shapes:
            options["layer"] = like.settings["layer"]
    return flatness(objective, seed=seed, **options)


def _check_settings(a: FlatnessResult, b: FlatnessResult, confidence: float | None) -> None:
    """Raise InvalidInputError unless two results are of the same measures."""
    pairs = {name: (a.settings.get(name), b.settings.get(name)) for name in _SETTINGS}
    pairs["confidence"] = (a.confidence, b.confidence)
    if confidence is not None and a.confidence != confidence:
        pairs["confidence"] = (a.confidence, confidence)
    other = [f"{name} {one!r} and {two!r}" for name, (one, two) in pairs.items() if one != two]
    if other:
        raise InvalidInputError(
            f"the two were measured with different settings: {', '.join(other)}. Measure one of them again with the "
            f"settings of the other, such as flatness(objective, {next(iter(other)).split()[0]}=...), or pass its "
            f"objective to compare."
        )


def _difference(a: Measure, b: Measure) -> Difference:
    """Return b - a with its interval."""
    is_bound = "lower bound" in (a.kind, b.kind)
    estimate = b.estimate - a.estimate if np.isfinite(a.estimate) or np.isfinite(b.estimate) else 0.0
    below = np.hypot(b.estimate - b.interval[0], a.interval[1] - a.estimate)
    above = np.hypot(b.interval[1] - b.estimate, a.estimate - a.interval[0])
    low, high = (float(limit) for limit in (estimate - below, estimate + above))
    if np.isnan(low) or np.isnan(high):
        low, high = -np.inf, np.inf
    return Difference(
        float(estimate),
        float(np.hypot(a.standard_error, b.standard_error)),
        (low, high),
        a.confidence,
        a.invariant and b.invariant,
        "lower bound" if is_bound else "exact" if a.kind == b.kind == "exact" else "estimate",
        a=a,
        b=b,
        significant=bool(not is_bound and (low > 0 or high < 0)),
    )


def _remark(found: list[FlatnessResult], names: Sequence[str]) -> str:
    lines = [f"{name}: {line}" for name, one in zip(names, found, strict=True) for line in one.remark.splitlines()]
    for name in ("layer", "fisher"):
        kinds = [one.settings.get(name) for one in found]
        if kinds[0] != kinds[1] and None not in kinds:
            lines.append(f"{name} is {kinds[0]} of {names[0]} and {kinds[1]} of {names[1]}")
    return "\n".join(lines)
