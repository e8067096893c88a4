"""commands: `specop demo`, `report`, `track` and `compare`, with their options."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from specop.errors import ConvergenceWarning, InvalidInputError, NoiseWarning, SpecopError
from specop.objectives.mean import Objective
from specop.report.contents import SECTIONS, Settings
from specop.report.page import render
from specop.report.report import make_report
from specop.report.task_files import TaskError, load_objective, task_errors
from specop.report.track import draw_history, history_json
from specop.results._compare import compare as compare_results
from specop.results.result import versions

__all__ = ["commands"]


class _Positive(click.FloatRange):
    """Finite numbers above zero: a range alone lets NaN and infinity pass."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        found = super().convert(value, param, context)
        if not math.isfinite(found):
            self.fail(f"{found} is not a finite number.", param, context)
        return found


_POSITIVE = _Positive(min=0, min_open=True)


class _Program(click.Group):
    """A command group that explains every wrong input in one line and exits with code 2."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any) -> Any:
        extra["standalone_mode"] = False
        try:
            sys.exit(super().main(args, prog_name, **extra) or 0)
        except click.Abort:
            _complain("interrupted")
            sys.exit(130)
        except click.ClickException as error:
            _complain(f"{error.format_message()} See 'specop --help'.")
        except (SpecopError, TaskError) as error:
            _complain(str(error))
        sys.exit(2)


def _complain(text: str) -> None:
    click.echo(f"specop: {' '.join(text.split())}", err=True)


@click.group(cls=_Program, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(versions("numpy")["specop"], message="specop %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """Measure how curved the loss of a trained model is.

    Prints the largest and smallest eigenvalues of the Hessian, its trace and its whole spectrum, with the error of
    every number, without ever forming the matrix.

    \b
    Try it on a small network that is trained on the spot:
        specop demo
    Then on your own model (see 'specop report --help'):
        specop report my_task.py
    """  # noqa: D301 - click looks for the character itself
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _options(command: Callable[..., None]) -> Callable[..., None]:
    folder = click.Path(file_okay=False, path_type=Path)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else."),
        click.option(
            "--out",
            type=folder,
            default="specop-report",
            metavar="DIR",
            help="Folder for the files.  [default: specop-report]",
        ),
        click.option(
            "--without",
            type=click.Choice(SECTIONS),
            multiple=True,
            metavar="NAME",
            help=f"Leave out {', '.join(SECTIONS[:-1])} or {SECTIONS[-1]}; may be repeated.",
        ),
        _number("--seed", click.IntRange(0), 0, "Seed of all random vectors."),
        _number("--probes", click.IntRange(1), 3, "Random probes of the density."),
        _number("--steps", click.IntRange(1), 40, "Lanczos steps for each of them."),
        _number("--trace-rtol", _POSITIVE, 0.02, "Relative standard error of the trace."),
        _number("--tol", _POSITIVE, 1e-3, "Residual of the eigenpairs, relative to the largest."),
        _count("--k-low", click.IntRange(0), "How many of the smallest eigenvalues.  [default: 5, at most all]"),
        _count("--k", click.IntRange(1), "How many of the largest eigenvalues.  [default: 10, at most all]"),
    ):
        command = option(command)
    return command


def _number(name: str, kind: click.IntRange | click.FloatRange, default: float, text: str) -> Callable[..., Any]:
    return click.option(name, type=kind, default=default, metavar="N", help=f"{text}  [default: {default}]")


def _count(name: str, kind: click.IntRange, text: str) -> Callable[..., Any]:
    return click.option(name, type=kind, default=None, metavar="N", help=text)


@commands.command()
@_options
def demo(**options: Any) -> None:
    """Train a small network and report its curvature.

    The network learns to read scikit-learn's handwritten digits. All of it takes a few seconds and downloads nothing.
    """
    _report("demo: a small network on handwritten digits", _demo_objective, **options)


@commands.command()
@click.argument("task", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_options
@click.option("--traceback", is_flag=True, help="Show Python's traceback of an error in TASK.")
def report(task: Path, traceback: bool, **options: Any) -> None:
    """Report the curvature of your own model.

    TASK is a Python file with a function objective() that returns a specop Objective: the model, the loss, the data.

    \b
    Example: my_task.py
        import torch, specop
        def objective():
            model = torch.load("model.pt", weights_only=False).eval()
            images, labels = torch.load("data.pt")
            return specop.objective(model, torch.nn.functional.cross_entropy, (images, labels))
    \b
    and then:
        specop report my_task.py --k 20 --out my-report
    """  # noqa: D301 - click looks for the character itself
    with task_errors(task, show_traceback=traceback):
        _report(task.name, lambda: load_objective(task), **options)


@commands.command()
@click.argument("history", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--quantity", metavar="NAME", help="What to draw.  [default: lambda_max beside its limit]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The picture.  [default: beside HISTORY, .png]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the history as JSON, and nothing else.")
def track(history: Path, quantity: str | None, out: Path | None, as_json: bool) -> None:
    """Draw what curvature did while a model was trained.

    HISTORY is what a monitor has saved.

    \b
    Example: in the training
        monitor = specop.training.Monitor(objective, history="run.npz")
    \b
    and then, at any time:
        specop track run.npz
        specop track run.npz --quantity trace --out trace.png
    """  # noqa: D301 - click looks for the character itself
    found, picture = draw_history(history, out, quantity)
    if as_json:
        click.echo(history_json(found, picture))
    else:
        click.echo(f"{found}\n\npicture: {picture}")


@commands.command()
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON, and nothing else.")
def compare(a: Path, b: Path, as_json: bool) -> None:
    """Compare two saved results of one kind.

    A and B are npz files that results, reports or monitors have saved. Numbers stand side by side with their
    difference and the joint error of it; settings, seeds and versions that differ are listed.

    \b
    Example:
        specop report my_task.py --out before
        specop report my_task.py --out after
        specop compare before/trace.npz after/trace.npz
    """  # noqa: D301 - click looks for the character itself
    found = compare_results(a, b)
    click.echo(json.dumps(found.to_dict(), indent=2, allow_nan=False) if as_json else str(found))


def _report(source: str, load: Callable[[], Objective], *, out: Path, as_json: bool, **settings: Any) -> None:
    # Whatever a task prints must not end up in the middle of the report.
    with contextlib.redirect_stdout(sys.stderr), _short_warnings():
        made = make_report(source, load, out, Settings(**settings))
    if as_json:
        click.echo(made.to_json())
    else:
        click.echo(render(made, encoding=getattr(sys.stdout, "encoding", None) or "ascii"))


def _demo_objective() -> Objective:
    # Its products take less than a millisecond. Threads that spin while they wait for each other make them up to fifty
    # times slower where other programs want the same cores. Read once, when the framework is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        demonstration = importlib.import_module("specop_torch.demo")
    except ImportError as error:
        raise InvalidInputError(f"the demo needs PyTorch: pip install 'specop[torch]' ({error}).") from error
    if sys.stderr.isatty():
        click.echo("training a small network on handwritten digits ...", err=True)
    made: Objective = demonstration.objective()
    return made


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Print the library's own warnings in one line, without the place in its source."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, (ConvergenceWarning, NoiseWarning)):
                _complain(f"warning: {message}")
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        for category in (ConvergenceWarning, NoiseWarning):
            warnings.simplefilter("always", category)
        yield
