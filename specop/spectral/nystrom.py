"""Nystrom approximation of a positive semidefinite operator, each probe left out in turn (XNysTrace)."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from specop.errors import DomainError
from specop.spectral.jackknife import nystrom_error
from specop.spectral.sketch import Sketch
from specop.statistics.numbers import Floats

__all__ = ["nystrom_estimates", "nystrom_factor"]


def nystrom_estimates(sketch: Sketch) -> tuple[Floats, float]:
    r"""Return an estimate of the trace for each probe, from the approximation by all others, and their mean's error.

    With :math:`Y = (B + \nu I)\Omega = QR` and :math:`H = \Omega^\top Y = C^\top C`, the approximation is
    :math:`Q (R C^{-1})(R C^{-1})^\top Q^\top`; without probe i it loses :math:`Q s_i s_i^\top Q^\top`, where
    :math:`s_i = R H^{-1} e_i / \sqrt{e_i^\top H^{-1} e_i}`.

    Raises
    ------
    DomainError
        If H shows a negative eigenvalue.
    """
    p, d = sketch.drawn, sketch.space.dimension
    if sketch.is_zero:
        return np.zeros(p), 0.0
    W, R, gram = (matrix[:p, :p] for matrix in (sketch.W, sketch.R, sketch.gram))
    C_inverse = _inverse(_cholesky(W.T @ R, sketch, _NEEDS, _REMEDY))
    B = R @ C_inverse
    K, H_inverse, gram_inverse = B @ C_inverse.T, C_inverse @ C_inverse.T, _inverse(gram)
    whole = np.sum(B**2) - sketch.shift * d
    lost, rest = np.sum(K**2, axis=0) / np.diagonal(H_inverse), 1.0 / np.diagonal(H_inverse)
    # Since K'W = I, probe i sees 1 / (H^-1)_ii beyond the others' approximation; what of the probe itself lies beyond
    # the others has the squared length 1 / (gram^-1)_ii.
    estimates = whole - lost + (d - p + 1) * np.diagonal(gram_inverse) * rest
    return estimates, nystrom_error(estimates, H_inverse, gram_inverse, K.T @ K, d)


def nystrom_factor(sketch: Sketch, needs: str, remedy: str) -> Floats:
    """Return F = R C^-1, with which the approximation of B + shift I is Q F F' Q'.

    Parameters
    ----------
    sketch : Sketch
    needs, remedy : str
        Begin and end of the text for an operator that is not positive semidefinite.
    """
    p = sketch.drawn
    W, R = sketch.W[:p, :p], sketch.R[:p, :p]
    return R @ _inverse(_cholesky(W.T @ R, sketch, needs, remedy))


_NEEDS = "method='xnystrace' needs a positive semidefinite operator"
_REMEDY = "Use method='xtrace' or 'auto'."


def _inverse(matrix: Floats) -> Floats:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _cholesky(H: Floats, sketch: Sketch, needs: str, remedy: str) -> Floats:
    """Return upper triangular C with C'C = H, which may be singular within rounding."""
    values = np.linalg.eigvalsh((H + H.T) / 2)
    rounding = sketch.space.run.A.precision * max(float(np.abs(values).max()), 1e-150)
    if values[0] < -1e3 * len(H) * rounding:
        raise DomainError(
            f"{needs}, and {sketch.space.run.A!r} is not: "
            f"{len(H)} probes Z have a Z.T A Z with eigenvalues from {values[0]:.3g} to {values[-1]:.3g}. "
            f"{remedy}"
        )
    jitter = max(0.0, 2 * rounding - float(values[0]))
    upper = scipy.linalg.cholesky((H + H.T) / 2 + jitter * np.eye(len(H)), check_finite=False)
    return np.asarray(upper, dtype=np.float64)
