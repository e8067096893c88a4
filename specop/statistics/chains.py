"""What chains of draws that depend on each other are worth: whether they agree, and how many draws they are."""

from __future__ import annotations

import numpy as np

from specop.statistics.numbers import Floats

__all__ = ["effective_draws", "scale_reduction"]


def scale_reduction(chains: Floats) -> float:
    """Return the split potential scale reduction (R-hat) [1]_: 1 where all halves of all chains agree.

    Parameters
    ----------
    chains : ndarray (c, k)
        k draws of each of c chains.

    References
    ----------
    .. [1] A. Gelman et al., Bayesian Data Analysis, 3rd edition (2013), section 11.4.
    """
    half = chains.shape[1] // 2
    parts = np.concatenate([chains[:, :half], chains[:, -half:]])
    within = float(np.mean(np.var(parts, axis=1, ddof=1)))
    between = float(np.var(parts.mean(axis=1), ddof=1))
    if within == 0:
        return 1.0 if between == 0 else float("inf")
    return float(np.sqrt((half - 1) / half + between / within))


def effective_draws(chains: Floats) -> float:
    """Return how many independent draws have a mean as exact, by Geyer's initial positive sequence [1]_.

    Parameters
    ----------
    chains : ndarray (c, k)
        k draws of each of c chains.

    References
    ----------
    .. [1] C. J. Geyer, Practical Markov chain Monte Carlo, Statistical Science 7 (1992).
    """
    count, length = chains.shape
    centred = chains - chains.mean(axis=1, keepdims=True)
    padded = np.fft.rfft(centred, 2 * length, axis=1)
    covariance = np.fft.irfft(padded * padded.conj(), axis=1)[:, :length].mean(axis=0) / length
    total = covariance[0] + float(np.var(chains.mean(axis=1), ddof=1)) if count > 1 else covariance[0]
    if total == 0:
        return float(count * length)
    correlation = 1.0 - (covariance[0] - covariance) / total
    pairs = correlation[: length - 1 : 2] + correlation[1::2]
    positive = pairs[: int(np.argmax(np.append(pairs < 0, True)))]
    return float(count * length / max(2.0 * positive.sum() - 1.0, 1.0))
