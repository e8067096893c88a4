"""make_report: the curvature of an objective in numbers, and the files that they go to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from specop.arrays.backend import backend_of, numbers_of
from specop.errors import InvalidInputError, SpecopError
from specop.landscape import blocks, critical_point, flatness, stability
from specop.objectives.mean import Objective
from specop.report.contents import SECTIONS, Report, Settings
from specop.report.figures import figures_of, picture
from specop.report.html import render_html
from specop.results.eigen import EigenResult
from specop.results.result import Result
from specop.spectral.survey import survey

__all__ = ["make_report"]

# Eigenvalues where nobody asks for a number of them.
_LARGEST, _SMALLEST = 10, 5
# Those that the spectrum does not give, and that take few losses.
_MEASURES = ("ball_sharpness", "adaptive_sharpness", "average_rise", "relative_flatness", "fisher_rao_norm")
# Of each block: enough for a trace to a few percent.
_BLOCK_STEPS, _BLOCK_PROBES = 20, 2


def make_report(source: str, load: Callable[[], Objective], folder: Path, settings: Settings) -> Report:
    """Compute the curvature report of an objective and write its files.

    Parameters
    ----------
    source : str
        What to call the objective.
    load : callable
        Returns the objective. It is called once the folder and the extras are known to be there.
    folder : Path
        Folder to write into; it is made if it is missing.
    settings : Settings
        How much to compute, and how accurately.

    Returns
    -------
    Report
    """
    _prepare(folder)
    objective = load()
    hessian = objective.hessian()
    backend = hessian.backend
    loss, gradient_norm = numbers_of(backend, objective.loss(), backend.norm(objective.gradient()))
    k = min(_LARGEST, objective.n) if settings.k is None else settings.k
    k_low = min(_SMALLEST, objective.n) if settings.k_low is None else settings.k_low
    settings = replace(settings, k=k, k_low=k_low)
    found = survey(
        hessian,
        k,
        k_low,
        tol=settings.tol,
        trace_rtol=settings.trace_rtol,
        steps=settings.steps,
        probes=settings.probes,
        seed=settings.seed,
        progress=True,
    )
    sections, refused = _sections(objective, found.largest, settings)
    report = Report(
        source=source,
        n=objective.n,
        samples=hessian.samples,
        dtype=str(hessian.dtype),
        device=str(hessian.device),
        loss=loss,
        gradient_norm=gradient_norm,
        largest=found.largest,
        smallest=found.smallest,
        trace=found.trace,
        density=found.density,
        sections=sections,
        refused=refused,
        settings=settings,
        folder=folder,
    )
    _write(report)
    return report


def _sections(
    objective: Objective, largest: EigenResult, settings: Settings
) -> tuple[dict[str, Result], dict[str, str]]:
    """Return what was asked for about the landscape, and why some of it is not there."""
    seed = settings.seed
    makers: dict[str, Callable[[], Result]] = {
        "critical point": lambda: critical_point(objective, seed=seed, progress=True),
        # The largest eigenvalue is known: a product confirms it. The report has the lower end already.
        "stability": lambda: stability(objective, v0=_last(largest), condition_matvecs=0, seed=seed, progress=True),
        "flatness": lambda: flatness(objective, measures=_MEASURES, seed=seed, progress=True),
        "blocks": lambda: blocks(objective, steps=_BLOCK_STEPS, probes=_BLOCK_PROBES, seed=seed, progress=True),
    }
    sections: dict[str, Result] = {}
    refused: dict[str, str] = {}
    for name in SECTIONS:
        if name in settings.without:
            continue
        try:
            sections[name] = makers[name]()
        except SpecopError as error:
            # A model without matrices has no relative flatness, say; all else of it is worth reporting.
            refused[name] = str(error)
    return sections, refused


def _last(eigen: EigenResult) -> EigenResult:
    """Return the last pair of a result by itself."""
    backend = backend_of(eigen.rows)
    row = backend.stack([eigen.eigenvector(len(eigen.eigenvalues) - 1)])
    kept = {name: getattr(eigen, name)[-1:] for name in ("eigenvalues", "bounds", "residuals", "goals")}
    return replace(eigen, rows=row, **kept)


def _prepare(folder: Path) -> None:
    """Find out now, not after hours of products, whether the report can be written."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InvalidInputError("the picture of the density needs matplotlib: pip install 'specop[plot]'.") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInputError(
            f"cannot write to {folder}: {error.strerror}. Choose another folder with --out."
        ) from error


def _write(report: Report) -> None:
    for name, result in report.results.items():
        result.save(report.folder / f"{name}.npz")
    title = f"Hessian spectrum: {report.n:,} parameters, {report.source}"
    drawn = picture(lambda ax: report.density.plot(ax).set_title(title), "png")
    (report.folder / "density.png").write_bytes(drawn)
    content = render_html(report, figures_of(report.density, report.largest, report.sections))
    (report.folder / "report.html").write_text(content, encoding="utf-8")
    (report.folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
