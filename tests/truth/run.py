"""Print, for each layer and function of the frameworks, what products with the Hessian are worth.

    python tests/truth/run.py > docs/truth.md
    python tests/truth/run.py --frameworks jax --only cumprod prod

About 750 rows, some twenty minutes. Beside specop stand the frameworks' own ways and, where they are installed as
tests/benchmarks/requirements.txt says, its peers. The truth is v'Hv from values of the loss alone (judge.py).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import warnings
from collections import Counter
from collections.abc import Iterator

FRAMEWORKS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow and Keras"}
LEGEND = """# What is the second derivative worth?

Each row applies a layer or a function to parameters, with a smooth function of its outputs as the loss, in float64. The
truth is v'Hv along three directions, by extrapolated second differences of the loss alone: no derivative of any
framework enters. `python tests/truth/run.py` prints this page.

- **right**: within 1e-5 of the largest, or within ten times what differences tell
- **wrong**: finite, without an error or a warning, and off by as much
- **noted**: off as well, and the operator's notes, which every result prints, say why: rows of an embedding's padding
  index count as constants, as in training; the gradient that the framework trains with is not that of the loss
- **refused**: an error of specop, which names what is wrong
- **error**: an error of another kind
- **not finite**: a NaN or an infinity
- **a value**: there is no second derivative here, as at the kink of ReLU, and a number is given by convention
"""


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of the rows to try")
    arguments = parser.parse_args()
    print(LEGEND)
    for framework in arguments.frameworks:
        print_section(framework, arguments.only)


def print_section(framework: str, only: list[str]) -> None:
    """Print the table of one framework, behind the counts of its columns."""
    table = list(judged_rows(framework, only))
    if not table:
        return
    tools = list(table[0][2])
    kinds = ["right", "wrong", "noted", "refused", "error", "not finite", "a value"]
    counts = {tool: Counter(found[tool].split(":")[0] for _, _, found in table) for tool in tools}
    print(f"## {FRAMEWORKS[framework]}\n\n| {len(table)} rows | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for tool in tools:
        print(f"| {tool} | {' | '.join(str(counts[tool][kind]) for kind in kinds)} |")
    print(f"\n| | point | {' | '.join(tools)} |\n|---|---|{'---|' * len(tools)}")
    for name, point, found in table:
        print(f"| {name} | {point} | {' | '.join(found[tool] for tool in tools)} |")
    print(flush=True)


def judged_rows(framework: str, only: list[str]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield (operation, point, verdicts)."""
    if framework == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    module = importlib.import_module(f"{framework}_rows")
    for name, point, make in module.rows():
        if any(part in name for part in only):
            print(f"{framework}: {name}, {point}", file=sys.stderr)
            # What a peer prints is no row.
            with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                # Thousands of rows warn of what the table says.
                warnings.simplefilter("ignore")
                found = module.judged(make)[1]
            yield name, point, found


if __name__ == "__main__":
    main()
