"""Report and Settings: what a report holds, and what was asked for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from specop.results.eigen import EigenResult
from specop.results.plain import plain
from specop.results.result import Result, versions
from specop.results.spectral_density import SpectralDensity
from specop.results.trace import TraceResult

__all__ = ["SECTIONS", "Report", "Settings"]

SECTIONS = ("critical point", "stability", "flatness", "blocks")
"""What a report says of the landscape, as far as nobody asks for less."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line can choose.

    Attributes
    ----------
    k, k_low : int or None
        Numbers of largest and smallest eigenvalues; None for ten and five, of smaller models all.
    tol : float
        Residual of the eigenpairs: of the largest relative to each, of the smallest relative to the largest.
    trace_rtol : float
        Relative standard error of the trace.
    steps : int
        Lanczos steps for each probe of the spectral density.
    probes : int
        Number of random probes of the spectral density.
    seed : int
        Seed of all random vectors.
    without : tuple of str
        Names of `SECTIONS` that are left out.
    """

    k: int | None
    k_low: int | None
    tol: float
    trace_rtol: float
    steps: int
    probes: int
    seed: int
    without: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """Loss, gradient and Hessian of an objective in numbers.

    Attributes
    ----------
    source : str
        File that the objective was read from, or what else it is called.
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
    sections : dict
        Results of what was asked for among `SECTIONS`, by name.
    refused : dict
        Why there is none, by the name of the section.
    settings : Settings
        Settings that the report was made with.
    folder : Path
        Folder that holds the report's files.
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
    sections: dict[str, Result]
    refused: dict[str, str]
    settings: Settings
    folder: Path

    @property
    def results(self) -> dict[str, Result]:
        """The results by name, without those that were not asked for."""
        found: dict[str, Result | None] = {
            "largest": self.largest,
            "smallest": self.smallest,
            "trace": self.trace,
            "density": self.density,
        }
        found |= {name.replace(" ", "_"): result for name, result in self.sections.items()}
        return {name: result for name, result in found.items() if result is not None}

    @property
    def files(self) -> list[str]:
        """Names of the files in the folder."""
        return ["report.html", "density.png", "report.json", *(f"{name}.npz" for name in self.results)]

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
            "refused": self.refused,
            "products": sum(result.matvecs for result in self.results.values()),
            "seconds": sum(result.seconds for result in self.results.values()),
            "settings": asdict(self.settings),
            "files": [str(self.folder / name) for name in self.files],
        }
        return json.dumps(plain(content), indent=2, allow_nan=False)
