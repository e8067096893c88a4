"""The learning coefficient at a minimum, between limits or by chains."""

from __future__ import annotations

from specop.plotting.axes import Axes, Place
from specop.results.fields import converted, error_of, estimated, record, vector
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats

__all__ = ["LearningBracket", "LearningEstimate"]


@record
class LearningBracket(Result):
    """Limits of the learning coefficient from the rank of the Hessian.

    Attributes
    ----------
    lower : float
        Half of the certified number of eigenvalues above the threshold.
    upper : float
        `lower` and a quarter for each of the other directions, or n / 2: see `condition`.
    rank : Estimate
        Number of eigenvalues above the threshold, with its limits.
    threshold : float
        Eigenvalues up to this size count as zero.
    gap : (float, float)
        The range around the threshold in which no eigenvalue was seen.
    condition : str
        What the upper limit depends on.
    n : int
        Number of parameters; a regular minimum has the coefficient n / 2.
    """

    lower: float
    upper: float
    rank: Estimate = estimated()
    threshold: float
    gap: tuple[float, float] = converted(tuple)
    condition: str
    n: int

    def _headline(self) -> str:
        where = f"{self.lower:g}" if self.lower == self.upper else f"from {self.lower:g} to {self.upper:g}"
        return f"learning coefficient {where}, where a regular minimum of {self.n:,} parameters has {self.n / 2:g}"

    def _lines(self) -> list[str]:
        low, high = self.rank.interval
        limits = "" if low == high else f" ({low:g} to {high:g})"
        return [*super()._lines(), f"rank {self.rank.estimate:g}{limits}: {self.condition}"]


@record
class LearningEstimate(Plotted, Result):
    r"""The learning coefficient that chains around a minimum see at a finite number of samples.

    `plot` draws what the chains saw, and their running means.

    Attributes
    ----------
    estimate : float
        Mean of :math:`m \beta (L - L(w_0))` over chains.
    standard_error : float
        Standard error of the mean over chains.
    interval : (float, float)
        Student-t interval from these.
    confidence : float
        Probability with which it holds the expectation at this m, beta and gamma, which is not the limit for large m.
    looser : Estimate
        The estimate at a tenth of gamma. Where it is larger, gamma holds the estimate down.
    gamma : float
        How strongly chains are kept near the point.
    beta : float
        Inverse temperature of the chains.
    m : int
        Number of samples that the density stands for.
    scale_reduction : float
        R-hat, the worse of both runs: 1 where chains agree.
    effective_draws : float
        How many independent draws the chains are worth, the fewer of both runs.
    accepted : float
        Share of steps that were accepted, the smaller of both runs.
    step : float
        Longest step after the chains had warmed up, mean over chains.
    rises : ndarray (chains, steps)
        What each step of each chain saw.
    n : int
        Number of parameters.
    """

    estimate: float
    standard_error: float = error_of("estimate")
    interval: tuple[float, float] = converted(tuple)
    confidence: float
    looser: Estimate = estimated()
    gamma: float
    beta: float
    m: int
    scale_reduction: float
    effective_draws: float
    accepted: float
    step: float
    rises: Floats = vector()
    n: int

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.learning_coefficient import plot_chains

        title = (
            f"learning coefficient {self.estimate:.3g} +- {self.standard_error:.1g}, R-hat {self.scale_reduction:.2f}"
        )
        return plot_chains(self.rises, self.estimate, self.interval, title, place)

    def _headline(self) -> str:
        return (
            f"learning coefficient {self.estimate:.4g} +- {self.standard_error:.2g} at m={self.m:,}, "
            f"beta={self.beta:.3g}, gamma={self.gamma:g}; at a tenth of gamma {self.looser.estimate:.4g} +- "
            f"{self.looser.standard_error:.2g}"
        )

    def _lines(self) -> list[str]:
        return [
            *super()._lines(),
            f"{len(self.rises)} chains of {self.rises.shape[1]} steps on all data, {100 * self.accepted:.0f} % "
            f"accepted: R-hat {self.scale_reduction:.3f}, worth {self.effective_draws:.0f} independent draws",
        ]
