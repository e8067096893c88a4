"""flatness: how flat the loss is around a point, by the measures that people use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, checked_count, checked_number
from specop.krylov.task import Task
from specop.landscape._directions import check_filter_axis
from specop.landscape._layers import layer_named
from specop.landscape._measures import MEASURES, Maker
from specop.landscape._point import point_of
from specop.results.flatness import FlatnessResult, Measure
from specop.statistics.estimate import check_confidence

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["flatness"]


def flatness(
    objective: Objective,
    *,
    measures: Sequence[str] | None = None,
    prior: float | None = None,
    box: float = 1e-3,
    ball: float = 0.05,
    adaptive_ball: float = 0.5,
    adaptive_offset: float = 0.01,
    sigma: float = 0.01,
    rise: float = 0.1,
    relative_offset: float = 1e-3,
    layer: str | None = None,
    filter_axis: int | None = None,
    draws: int = 16,
    probes: int = 8,
    theta: Array | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> FlatnessResult:
    r"""Measure how flat the loss is around a point, in all the ways that are compared with generalization.

    With the Hessian H of the mean loss L, its eigenvalues :math:`h_i`, the parameters w and the prior's precision
    :math:`\alpha`:

    - ``largest_eigenvalue``, ``trace``, ``mean_eigenvalue`` (trace / n), ``frobenius_norm``;
    - ``effective_dimension`` :math:`\sum_i h_i / (h_i + \alpha)` and ``log_determinant``
      :math:`\log\det(I + H/\alpha)`, in which negative eigenvalues count as zero [1]_;
    - ``box_sharpness`` [2]_: :math:`100 \, (\max L(w + z) - L) / (1 + L)` over :math:`|z_i| \le \epsilon (|w_i| + 1)`;
    - ``ball_sharpness`` [3]_, that of SAM: :math:`\max L(w + z) - L` over :math:`\|z\| \le \rho`;
    - ``adaptive_sharpness`` [4]_, that of ASAM: the same over :math:`\|z / (|w| + \eta)\| \le \rho`;
    - ``average_rise``: :math:`E[L(w + z)] - L` for :math:`z \sim N(0, \sigma^2 I)`, by the loss; beside it
      ``average_rise_quadratic``, :math:`\sigma^2 \operatorname{tr} H / 2`;
    - ``relative_flatness`` [5]_ of one layer with rows :math:`w_s` of weights:
      :math:`\sum_{s,t} \langle w_s, w_t \rangle \operatorname{tr} H_{st}`;
    - ``fisher_rao_norm`` [6]_: :math:`w^T F w` with the exact Fisher matrix where the likelihood is known, else with
      the empirical one of samples; `settings` says which;
    - ``pac_bayes_sigma`` [7]_: the largest :math:`\sigma` at which noise :math:`N(0, \sigma^2)` raises the loss by
      `rise` on average; ``pac_bayes_relative_sigma``: the same with a variance of :math:`\sigma^2 w_i^2 + e^2`.

    The three sharpnesses come from projected ascent on the loss itself and are lower bounds, whose intervals have no
    upper end. Flatter is smaller for all but the two levels of noise. Rescaling a ReLU layer by a and the next one by
    1/a leaves the network as it is, and with it `relative_flatness`, `fisher_rao_norm`, for :math:`\eta = 0`
    `adaptive_sharpness` and for e = 0 `pac_bayes_relative_sigma`; it changes all others [8]_. The result says of each.

    Parameters
    ----------
    objective : Objective
        The model is left as it is.
    measures : sequence of str, optional
        Names of those that are wanted; default: all.
    prior : float, optional
        :math:`\alpha`, a weight decay of the mean loss; default: 1 / samples, that of a standard normal prior. Much
        below a thousandth of the largest eigenvalue intervals are wide: Lanczos runs do not tell such eigenvalues from
        zero.
    box : float
        :math:`\epsilon` of ``box_sharpness``.
    ball, adaptive_ball : float
        :math:`\rho` of ``ball_sharpness``, in units of the parameters, and of ``adaptive_sharpness``, relative to them.
    adaptive_offset : float
        :math:`\eta` of ``adaptive_sharpness``.
    sigma : float
        Standard deviation of the noise of ``average_rise``, in units of the parameters.
    rise : float
        Rise of the loss that defines the levels of noise.
    relative_offset : float
        e of ``pac_bayes_relative_sigma``.
    layer : str, optional
        Name of the parameter for ``relative_flatness``; default: the last one of two or more dimensions.
    filter_axis : int, optional
        The axis of that parameter along which the outputs lie; default: by its name and the framework's custom.
    draws : int
        Number of random pairs, or probes of a layer, behind each measure that takes any; at least 2.
    probes : int
        Number of Lanczos runs behind the sums over the spectrum; at least 2. Up to 240 parameters these are exact.
    theta : native vector (n,), optional
        Parameters at which it is computed; default: the model's current ones.
    confidence : float
        Probability with which the intervals hold.
    seed : int
        Seed of the random vectors. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    FlatnessResult
        ``measures`` by name, each an estimate with its error; `compare` puts two side by side.

    Raises
    ------
    NonFiniteError
        If parameters, loss, gradient or a product are not finite.
    InvalidInputError

    Notes
    -----
    With all measures, `probes` = 8 and `draws` = 16 it takes about 300 products, 40 gradients and 400 losses; the sums
    over the spectrum take most products, the levels of noise most losses. Intervals are those of random vectors and of
    bounds, not of the sample of data.

    References
    ----------
    .. [1] D. J. C. MacKay, Bayesian interpolation, Neural Computation 4 (1992).
    .. [2] N. S. Keskar et al., On large-batch training for deep learning: generalization gap and sharp minima, ICLR
       (2017).
    .. [3] P. Foret et al., Sharpness-aware minimization for efficiently improving generalization, ICLR (2021).
    .. [4] J. Kwon et al., ASAM: adaptive sharpness-aware minimization for scale-invariant learning of deep neural
       networks, ICML (2021).
    .. [5] H. Petzka et al., Relative flatness and generalization, NeurIPS (2021), arXiv:2001.00939.
    .. [6] T. Liang et al., Fisher-Rao metric, geometry, and complexity of neural networks, AISTATS (2019).
    .. [7] Y. Jiang et al., Fantastic generalization measures and where to find them, ICLR (2020).
    .. [8] L. Dinh et al., Sharp minima can generalize for deep nets, ICML (2017).

    Examples
    --------
    >>> import torch, specop
    >>> def loss(params, batch):
    ...     return 0.5 + 2 * (params["w"][0] - 1) ** 2 + params["w"][1] ** 2
    >>> point = {"w": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    >>> objective = specop.objective(loss, params=point, data=torch.zeros(1, 1))
    >>> found = specop.landscape.flatness(objective, measures=["largest_eigenvalue", "trace"])
    >>> round(found.measures["largest_eigenvalue"].estimate, 9), round(found["trace"].estimate, 9)
    (4.0, 6.0)
    """
    task = Task(
        "flatness", objective.backend, objective.processes, seed=seed, samples=objective.samples, progress=progress
    )
    wanted = _checked_names(measures)
    check_confidence(confidence)
    numbers = {
        "prior": 1.0 / objective.samples if prior is None else checked_number("prior", prior, positive=True),
        "box": checked_number("box", box, positive=True),
        "ball": checked_number("ball", ball, positive=True),
        "adaptive_ball": checked_number("adaptive_ball", adaptive_ball, positive=True),
        "adaptive_offset": checked_number("adaptive_offset", adaptive_offset),
        "sigma": checked_number("sigma", sigma, positive=True),
        "rise": checked_number("rise", rise, positive=True),
        "relative_offset": checked_number("relative_offset", relative_offset),
    }
    for name, count in (("draws", draws), ("probes", probes)):
        if checked_count(name, count) < 2:
            raise InvalidInputError(f"{name} must be at least 2: a single one has no error, got {count!r}.")
    layer = layer_named(objective, layer)
    check_filter_axis(filter_axis, {} if layer is None else {layer: objective.shapes[layer]})
    point = point_of(objective, theta)
    hessian = objective.hessian(theta)
    task.operators = (hessian,)
    with task:
        maker = Maker(objective, point, hessian, numbers, layer, filter_axis, draws, probes, confidence, seed)
        found: dict[str, Measure] = {}
        for name in wanted:
            value = MEASURES[name](maker)
            task.update(name)
            if value is not None:
                found[name] = value
        remark = maker.remark()
    settings: dict[str, Any] = {**numbers, "draws": draws, "probes": probes, **maker.told}
    return task.result(
        FlatnessResult,
        measures=found,
        loss=point.loss,
        gradient_norm=point.slope,
        settings=settings,
        missing=maker.missing,
        n=objective.n,
        confidence=confidence,
        remark=remark,
        converged=True,
        message=f"{len(found)} measures",
    )


def _checked_names(measures: Sequence[str] | None) -> list[str]:
    if measures is None:
        return list(MEASURES)
    names = [measures] if isinstance(measures, str) else list(measures)
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise InvalidInputError(f"measures must be among {', '.join(MEASURES)}, got {measures!r}.")
    return names
