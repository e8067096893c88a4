"""row_forms: inner products by the inverse of a damped second moment of rows, all on the host in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from specop.arrays.backend import Array, Backend
from specop.statistics.numbers import Floats

__all__ = ["row_forms"]


def row_forms(
    backend: Backend, rows: Sequence[Array], others: Sequence[Array], damping: float
) -> tuple[Floats, Floats]:
    r"""Return :math:`G (\delta I + G^T G / m)^{-1} V^T` for the m rows G and other rows V, (m, k).

    It is :math:`(\delta I + G G^T / m)^{-1} G V^T`, which needs inner products of rows only, and loses no digits to the
    dtype of the rows where they cancel.

    Parameters
    ----------
    backend : Backend
        Backend of the rows.
    rows, others : sequence of native arrays
        Blocks of rows G and V; `others` may be the same sequence as `rows`.
    damping : float
        Positive multiple :math:`\delta` of the identity.

    Returns
    -------
    forms : ndarray (m, k)
    residuals : ndarray (k,)
        Norms of the residuals of the system with m unknowns.
    """
    gram = backend.row_products(rows, rows)
    inner = gram if others is rows else backend.row_products(rows, others)
    damped = gram / len(gram) + damping * np.eye(len(gram))
    forms: Floats = scipy.linalg.solve(damped, inner, assume_a="pos")
    return forms, np.linalg.norm(inner - damped @ forms, axis=0)
