"""Noise scales of the gradient, and the batch size that they advise."""

from __future__ import annotations

from specop.errors import InvalidInputError, checked_number
from specop.plotting.axes import Axes, Place
from specop.results.fields import estimated, record
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.results.tables import Column
from specop.statistics.estimate import Estimate

__all__ = ["NoiseResult"]

_ROWS = {
    "simple_scale": "simple scale tr S/|g|^2, samples",
    "curvature_scale": "scale with curvature tr(HS)/(g'Hg), samples",
    "variance": "variance of a sample's gradient, tr S",
    "squared_gradient": "|g|^2",
    "noise_curvature": "tr(HS)",
    "gradient_curvature": "g'Hg",
}


@record
class NoiseResult(Plotted, Result):
    """How much gradients of samples scatter.

    `plot` draws steps and samples to the same loss against the batch size, as multiples of the least, with limits.

    Attributes
    ----------
    simple_scale : Estimate
        ``tr S / |g|^2``, in samples. Where ``|g|^2`` is not told from zero the upper limit is infinite.
    curvature_scale : Estimate
        tr(HS) / (g'Hg), in samples; negative where the loss curves down along the gradient, and then no batch size.
    variance : Estimate
        tr S, the variance of a single sample's gradient, all entries together. A batch of B has tr S / B.
    squared_gradient : Estimate
        ``|g|^2`` without the part of noise; below zero by chance where the gradient is small.
    noise_curvature : Estimate
        Trace of the Hessian H times the covariance S of gradients.
    gradient_curvature : Estimate
        g'Hg without the part of noise.
    batch_size : int or None
        Where both steps and samples are at most about twice their least numbers: the scale with curvature, or else the
        simple one. None where neither has an upper limit.
    advised_by : str
        "curvature" or "simple", the scale that the batch size is; empty without one.
    population : bool
        Whether the data are taken as a sample.
    parts : int
        Number of parts behind the scale with curvature; 0 where the data are all there are.
    """

    simple_scale: Estimate = estimated()
    curvature_scale: Estimate = estimated()
    variance: Estimate = estimated()
    squared_gradient: Estimate = estimated()
    noise_curvature: Estimate = estimated()
    gradient_curvature: Estimate = estimated()
    batch_size: int | None
    advised_by: str
    population: bool
    parts: int

    @property
    def scale(self) -> Estimate | None:
        """The scale that the advised batch size is, or None."""
        return getattr(self, f"{self.advised_by}_scale") if self.advised_by else None

    @property
    def saving(self) -> float | None:
        """How many times fewer samples the advised batches take to the same loss than gradients of all data do."""
        if self.batch_size is None or self.samples is None:
            return None
        return self.work(self.samples) / self.work(self.batch_size)

    def steps(self, batch_size: float) -> float:
        """Return how many times as many steps batches of a size take as exact gradients: 1 + scale / batch_size.

        Parameters
        ----------
        batch_size : float
            Number of samples, drawn with replacement.
        """
        return 1.0 + self._scale() / checked_number("batch_size", batch_size, positive=True)

    def work(self, batch_size: float) -> float:
        """Return how many times the least number of samples batches of a size take: 1 + batch_size / scale.

        Parameters
        ----------
        batch_size : float
            Number of samples, drawn with replacement.
        """
        size, scale = checked_number("batch_size", batch_size, positive=True), self._scale()
        return 1.0 + size / scale if scale else float("inf")

    def rate(self, batch_size: float) -> float:
        r"""Return the learning rate at which the loss falls fastest at the first step.

        .. math:: \frac{|g|^2}{g^\top H g} \cdot \frac{1}{1 + s/B}

        with the scale s that the advice follows. It moves with the point, and at the start of training far more than
        the batch size does.

        Parameters
        ----------
        batch_size : float
            Number of samples, drawn with replacement.
        """
        if not self.gradient_curvature.interval[0] > 0:
            raise InvalidInputError(
                f"along the gradient the curvature is {self.gradient_curvature}: not told to be positive, so the "
                f"quadratic model has no best rate. Pass more samples, or choose the rate by landscape.stability."
            )
        return self.squared_gradient.estimate / self.gradient_curvature.estimate / self.steps(batch_size)

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.noise import plot_noise

        scale = self.scale
        title = self._headline()
        if scale is None:
            return plot_noise(self.simple_scale.interval, None, title, place)
        return plot_noise(scale.interval, scale.estimate, title, place)

    def _scale(self) -> float:
        scale = self.scale
        if scale is None:
            raise InvalidInputError(
                f"neither noise scale has an upper limit: |g|^2 is {self.squared_gradient}, not told from zero, so "
                f"that larger batches always save steps. Pass more samples, or look where the gradient is larger."
            )
        return max(scale.estimate, 0.0)

    def _headline(self) -> str:
        if self.batch_size is None:
            low = max(self.simple_scale.interval[0], 0.0)
            return f"no batch size: the gradient is not told from zero, the simple noise scale is above {low:.3g}"
        low, high = self.scale.interval if self.scale else (0.0, 0.0)
        return (
            f"batch size {self.batch_size:,} ({max(low, 0.0):.3g} to {high:.3g}), by the "
            f"{'noise scale with curvature' if self.advised_by == 'curvature' else 'simple noise scale'}"
        )

    def _lines(self) -> list[str]:
        if self.saving is None:
            return super()._lines()
        text = (
            f"at it twice the steps of exact gradients, and {self.saving:.3g} times fewer samples than by gradients of "
            f"all {self.samples:,}"
        )
        return [*super()._lines(), text]

    def _columns(self) -> dict[str, Column]:
        found: list[Estimate] = [getattr(self, name) for name in _ROWS]
        return {
            "quantity": Column(list(_ROWS.values()), "quantity"),
            "estimate": Column([one.estimate for one in found], "estimate", ".4g"),
            "standard_error": Column([one.standard_error for one in found], "standard error", ".1e"),
            "low": Column([one.interval[0] for one in found], "from", ".3g"),
            "high": Column([one.interval[1] for one in found], "to", ".3g"),
        }
