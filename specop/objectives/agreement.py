"""compare: whether a product agrees with differences at several steps, as far as rounding and kinks let one say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from specop.statistics.numbers import Floats

__all__ = ["WRONG", "Verdict", "compare", "length"]

# A deviation that no right product shows, and one that no wrong product of use shows.
WRONG, _RIGHT = 1e-3, 1e-4
# What is off by more confirms nothing, however coarse the precision.
_VAGUE = 1e-2
# Two differences are neighbours up to this ratio of their steps.
_NEIGHBOURS = 12.0
# Where steps are rounded alike, a larger one comes so much nearer to a right product.
_NEARER = 0.1


@dataclass(frozen=True)
class Verdict:
    """What differences say of a product.

    Attributes
    ----------
    deviation : float
        From the differences, relative to the larger of both; NaN where nothing can be said.
    reason : str
        Why nothing can be said; empty where the product is confirmed or contradicted.
    wrong : str
        What a product that is contradicted leaves out.
    remarks : tuple of str
        What the user should know of a product that is confirmed.
    """

    deviation: float = np.nan
    reason: str = ""
    wrong: str = ""
    remarks: tuple[str, ...] = ()


def compare(
    told: Floats, measure: Callable[[float], tuple[Floats, float]], precision: float, ratios: tuple[float, ...]
) -> Verdict:
    """Compare what a product says with differences at several steps.

    The first difference that agrees with the product settles it. A product is wrong only where two neighbouring steps
    agree with each other better than with it, and no other step comes ten times nearer; a kink or a model that rounds
    to single precision inside shows differences that agree with nothing. Where samples are fitted to a loss of 1e-12,
    logits of 30 are rounded in the same way at several small steps, and larger ones come nearer and nearer.

    Parameters
    ----------
    told : array
        What the product says.
    measure : callable
        From a step to what differences say, and the least deviation that is not rounding or chance, as a length.
    precision : float
        Relative rounding error of the product.
    ratios : tuple of float
        Steps, in the order in which they are tried.
    """
    tolerance, enough = max(WRONG, 100.0 * precision), max(_RIGHT, min(10.0 * precision, _VAGUE))
    tried: list[tuple[float, Floats]] = []
    deviations, wrong = [], 0.0
    for ratio in ratios:
        found, least = measure(ratio)
        # What is rounded to 16 bit stands still at small steps.
        if not np.isfinite(found).all() or (told.any() and not found.any()):
            continue
        scale = max(length(told), length(found), least, np.finfo(np.float64).tiny)
        deviation = length(found - told) / scale
        if deviation <= enough:
            return Verdict(deviation)
        for known, earlier in tried:
            if 1.0 / _NEIGHBOURS < known / ratio < _NEIGHBOURS:
                disagreement = length(found - earlier) / scale
                if deviation > max(tolerance, 10.0 * disagreement):
                    wrong = max(wrong, deviation)
                if max(deviation, disagreement) <= min(tolerance, _VAGUE):
                    return Verdict(deviation)
        deviations.append(deviation)
        tried.append((ratio, found))
    if wrong and min(deviations) > _NEARER * wrong:
        return Verdict(wrong, wrong="somewhere")
    if wrong:
        return Verdict(reason="differences by small steps are rounded: the gradient is made of numbers far above it")
    return Verdict(reason="no two differences agree: the function has kinks here, or rounds too much")


def length(vector: Floats) -> float:
    """Return the Euclidean norm of a vector on the host."""
    return float(np.linalg.norm(vector))
