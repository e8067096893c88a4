"""overview, gradient_remarks: what both pages say of a report in the same words."""

from __future__ import annotations

import math

import numpy as np

from specop.report.contents import Report
from specop.statistics.estimate import Estimate

__all__ = ["gradient_remarks", "overview"]


def overview(report: Report) -> list[tuple[str, str, str]]:
    """Return name, value and note of what comes first."""
    trace = report.trace
    low, high = trace.interval
    form = _form(trace.standard_error)
    return [
        ("parameters", f"{report.n:,}", f"{report.dtype} on {report.device}"),
        ("samples", "unknown" if report.samples is None else f"{report.samples:,}", ""),
        ("loss", f"{report.loss:.6g}", ""),
        ("gradient norm", f"{report.gradient_norm:.6g}", ""),
        (
            "Hessian trace",
            _with_error(trace.estimate, trace.standard_error),
            f"{100 * trace.confidence:g} % interval {low:{form}} to {high:{form}}",
        ),
    ]


def gradient_remarks(report: Report) -> list[str]:
    """Return what the spectrum means for gradient descent, as sentences without a full stop."""
    largest, k = float(report.largest.eigenvalues[-1]), len(report.largest.eigenvalues)
    lines = []
    if largest > 0:
        lines.append(f"plain gradient descent is stable for learning rates below 2/λ₁ = {2 / largest:.4g}")
        near = report.density.integrate(lambda x: np.abs(x) <= 0.01 * largest)
        lines.append(f"{_percent(near)} of all eigenvalues are at most λ₁/100 in magnitude")
    if report.largest.eigenvalues[0] > 0 and report.trace.estimate > 0:
        share = float(report.largest.eigenvalues.sum()) / report.trace.estimate
        lines.append(f"the {k} largest sum to {100 * share:.0f} % of the trace")
    return lines or ["no eigenvalue is positive: this point is a maximum, or the loss is flat"]


def _with_error(value: float, error: float) -> str:
    """Return the value with as many digits as its error leaves: 10.86 ± 0.15."""
    form = _form(error)
    return f"{value:{form}} ± {error:{form}}" if error > 0 and math.isfinite(error) else f"{value:{form}}"


def _form(error: float) -> str:
    """Return the number format that shows two digits of the error."""
    if not math.isfinite(error) or not 1e-8 < error < 1e8:
        return ".6g"
    return f",.{max(0, 1 - math.floor(math.log10(error)))}f"


def _percent(share: Estimate) -> str:
    if not share.standard_error > 0:
        return f"{100 * share.estimate:.1f} %"
    return f"{_with_error(100 * share.estimate, 100 * share.standard_error)} %"
