"""Whether the largest of many numbers stand apart from the others: gaps that a tail of a distribution does not show."""

from __future__ import annotations

import numpy as np

from specop.statistics.numbers import Floats

__all__ = ["gap_chances"]


def gap_chances(values: Floats) -> Floats:
    r"""Return for each of descending numbers the chance that an exponential tail shows such a gap below it.

    Of independent draws from an exponential tail the normalized spacings :math:`w_i = i (x_i - x_{i + 1})` are
    independent and exponential with one mean (Renyi); of a tail that ends they grow with i. A gap is compared with the
    ones below it: with j of them and their mean m the chance of a w that large is :math:`(1 + w / (j m))^{-j}`. It is
    multiplied by the number of gaps, because the largest one is looked for. Eigenvalues repel each other: their gaps
    are more even than those of independent draws, and the true chance is less.

    Parameters
    ----------
    values : ndarray (k + 1,)

    Returns
    -------
    ndarray (k,)
        At most 1; 1 for the last gap, which has none below it.
    """
    count = len(values) - 1
    spacings = np.arange(1, count + 1) * (values[:-1] - values[1:])
    below = np.arange(count - 1, -1, -1)
    sums = np.append(np.cumsum(spacings[::-1])[::-1][1:], 0.0)
    # No spread below leaves no chance to any gap.
    share = np.divide(spacings, sums, out=np.where(spacings > 0, np.inf, 0.0), where=sums > 0)
    return np.minimum(1.0, count * (1.0 + share) ** -below.astype(float))
