"""make_report, Report and Settings: the curvature of an objective in numbers, and the files that they go to."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specop.arrays.backend import numbers_of
from specop.errors import InvalidInputError
from specop.objectives.mean import Objective
from specop.results.eigen import EigenResult
from specop.results.result import Result, versions
from specop.results.spectral_density import SpectralDensity
from specop.results.trace import TraceResult
from specop.spectral.eigsh import eigsh
from specop.spectral.spectral_density import spectral_density
from specop.spectral.trace import trace

__all__ = ["Report", "Settings", "make_report"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line can choose.

    Attributes
    ----------
    k, k_low : int
        Numbers of largest and smallest eigenvalues.
    tol : float
        Relative residual of the eigenpairs.
    trace_rtol : float
        Relative standard error of the trace.
    steps : int
        Lanczos steps for each probe of the spectral density.
    probes : int
        Number of random probes of the spectral density.
    seed : int
        Seed of all random vectors.
    """

    k: int
    k_low: int
    tol: float
    trace_rtol: float
    steps: int
    probes: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """Loss, gradient and Hessian of an objective in numbers.

    Attributes
    ----------
    source : str
        Where the objective came from.
    n : int
        Number of parameters.
    samples : int or None
        Number of data samples, where it is known.
    dtype, device : str
        Number type and place of the vectors.
    loss, gradient_norm : float
        The mean loss and the Euclidean norm of its gradient.
    largest : EigenResult
        The largest eigenvalues of the Hessian.
    smallest : EigenResult or None
        The smallest ones; None if none were asked for.
    trace : TraceResult
        The Hessian's trace.
    density : SpectralDensity
        The Hessian's spectral density.
    settings : Settings
        What was asked for.
    folder : Path
        Where the files are.
    """

    source: str
    n: int
    samples: int | None
    dtype: str
    device: str
    loss: float
    gradient_norm: float
    largest: EigenResult
    smallest: EigenResult | None
    trace: TraceResult
    density: SpectralDensity
    settings: Settings
    folder: Path

    @property
    def results(self) -> dict[str, Result]:
        """The results by name, without those that were not asked for."""
        found = {"largest": self.largest, "smallest": self.smallest, "trace": self.trace, "density": self.density}
        return {name: result for name, result in found.items() if result is not None}

    @property
    def files(self) -> list[str]:
        """Names of the files in the folder."""
        return ["density.png", "report.json", *(f"{name}.npz" for name in self.results)]

    def to_json(self) -> str:
        """Return everything but the eigenvectors as JSON; numbers that are not finite become null."""
        content = {
            "specop": versions("numpy")["specop"],
            "source": self.source,
            "parameters": self.n,
            "samples": self.samples,
            "dtype": self.dtype,
            "device": self.device,
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            **{name: result.summary() for name, result in self.results.items()},
            "products": sum(result.matvecs for result in self.results.values()),
            "seconds": sum(result.seconds for result in self.results.values()),
            "settings": asdict(self.settings),
            "files": [str(self.folder / name) for name in self.files],
        }
        return json.dumps(_finite(content), indent=2, allow_nan=False)


def make_report(source: str, load: Callable[[], Objective], folder: Path, settings: Settings) -> Report:
    """Compute the curvature report of an objective and write its files.

    Parameters
    ----------
    source : str
        What to call the objective.
    load : callable
        Returns the objective. It is called once the folder and the extras are known to be there.
    folder : Path
        Where to write; made if it is missing.
    settings : Settings
        What to compute.

    Returns
    -------
    Report
    """
    _prepare(folder)
    objective = load()
    hessian = objective.hessian()
    backend, seed = hessian.backend, settings.seed
    loss, gradient_norm = numbers_of(backend, objective.loss(), backend.norm(objective.gradient()))
    largest = eigsh(hessian, settings.k, which="LA", tol=settings.tol, seed=seed, progress=True)
    smallest = None
    if settings.k_low:
        smallest = eigsh(hessian, settings.k_low, which="SA", tol=settings.tol, seed=seed, progress=True)
    report = Report(
        source=source,
        n=objective.n,
        samples=hessian.samples,
        dtype=str(hessian.dtype),
        device=str(hessian.device),
        loss=loss,
        gradient_norm=gradient_norm,
        largest=largest,
        smallest=smallest,
        trace=trace(hessian, rtol=settings.trace_rtol, deflate=largest, seed=seed, progress=True),
        density=spectral_density(
            hessian,
            steps=min(settings.steps, objective.n),
            probes=settings.probes,
            deflate=largest,
            seed=seed,
            progress=True,
        ),
        settings=settings,
        folder=folder,
    )
    _write(report)
    return report


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
    from matplotlib.figure import Figure

    for name, result in report.results.items():
        result.save(report.folder / f"{name}.npz")
    # A figure of its own, not pyplot's: no window and no global state.
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    report.density.plot(figure.subplots()).set_title(f"Hessian spectrum: {report.n:,} parameters, {report.source}")
    figure.savefig(report.folder / "density.png", dpi=150)
    (report.folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
