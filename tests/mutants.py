"""Change the numerical heart by one small mistake at a time, and print those that no test notices.

    python tests/mutants.py [--list] [--sample N] [--seed N] [--lines FROM:TO] [MODULE.py]...

A first run of the quick tests (those of the core, under tests/ in the rooms of the modules) notes which lines each
test executes and how long it takes. Then every mutant meets the tests that execute its line, the quickest first, until
one fails or takes many times as long as it did. What survives is a line that no test holds, or a change that makes no
difference; docs/design/project.md explains those that are known. A run over everything takes hours on one core: name
modules, or draw a sample.
"""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np  # so that no child has to import it
import pytest
import scipy.linalg  # noqa: F401

ROOT = Path(__file__).parents[1]
# The quick tests that are about a module; the rest of the suite is slower at finding the same mistakes.
EIGENPAIRS = ["tests/krylov", "tests/spectral/test_eigsh.py", "tests/spectral/test_eigsh_families.py"]
OBJECTIVES = [
    f"tests/objectives/test_{name}.py" for name in ("budgets", "memory_torch", "parts", "pipeline", "data_torch")
]
BLOCKS = [f"tests/solvers/test_{name}.py" for name in ("sherman_morrison", "row_storage", "row_updates")]
SYSTEMS = [
    *(f"tests/solvers/test_{name}.py" for name in ("solve", "solve_limits", "shifted", "preconditioners")),
    *(f"tests/solvers/test_{name}.py" for name in ("singular", "galerkin", "equations", "minimal_residuals")),
]
SPLIT = ["tests/spectral/test_part_algebra.py", "tests/spectral/test_trace_of_split.py"]
PARTS = ["tests/spectral/test_part_algebra.py", "tests/spectral/test_enclosure.py"]
MODULES = {
    "specop/arrays/same_call.py": ["tests/krylov/test_run.py", "tests/house/test_same_call.py"],
    "specop/arrays/probes.py": ["tests/arrays/test_probes.py"],
    "specop/krylov/space.py": [*EIGENPAIRS, "tests/spectral/test_eigsh_long.py"],
    "specop/krylov/projected.py": [*EIGENPAIRS, "tests/spectral/test_eigsh_long.py"],
    "specop/krylov/recurrence.py": EIGENPAIRS,
    "specop/krylov/orthonormal.py": EIGENPAIRS,
    "specop/krylov/orthogonality.py": EIGENPAIRS,
    "specop/krylov/beginning.py": [
        *EIGENPAIRS,
        "tests/spectral/test_eigsh_near.py",
        "tests/spectral/test_eigsh_long.py",
    ],
    "specop/krylov/run.py": ["tests/krylov", "tests/spectral/test_eigsh.py"],
    "specop/krylov/task.py": ["tests/krylov", "tests/spectral/test_eigsh.py"],
    "specop/spectral/search.py": EIGENPAIRS,
    "specop/spectral/check.py": [
        *EIGENPAIRS,
        "tests/spectral/test_eigsh_copies.py",
        "tests/spectral/test_eigsh_long.py",
    ],
    "specop/spectral/exclusion.py": [
        *EIGENPAIRS,
        "tests/spectral/test_eigsh_copies.py",
        "tests/spectral/test_exclusion.py",
    ],
    "specop/spectral/sketch.py": [f"tests/spectral/test_{name}.py" for name in ("sketch", "trace", "diagonal")],
    "specop/spectral/part/control.py": [*PARTS, "tests/spectral/test_from_part.py"],
    "specop/spectral/part/density.py": ["tests/spectral/test_density_of_part.py"],
    "specop/spectral/part/diagonal.py": ["tests/spectral/test_diagonal_of_part.py"],
    "specop/spectral/part/enclosure.py": PARTS,
    "specop/spectral/part/frobenius.py": ["tests/spectral/test_frobenius_of_part.py"],
    "specop/spectral/part/remainder.py": SPLIT,
    "specop/spectral/part/sampled_mean.py": PARTS,
    "specop/spectral/part/trace.py": ["tests/spectral/test_from_part.py"],
    "specop/solvers/conjugate_gradients.py": SYSTEMS,
    "specop/solvers/equations.py": SYSTEMS,
    "specop/solvers/galerkin.py": SYSTEMS,
    "specop/solvers/minimal_residuals.py": SYSTEMS,
    "specop/solvers/shifted.py": SYSTEMS,
    "specop/solvers/woodbury/gram_block.py": BLOCKS,
    "specop/solvers/woodbury/moment_block.py": BLOCKS,
    **{
        f"specop/statistics/{name}.py": ["tests/statistics"]
        for name in (
            "chains",
            "copies",
            "distances",
            "estimate",
            "group_sums",
            "ratio",
            "regression",
            "spacings",
            "strata",
            "tilted",
            "transport",
        )
    },
    "specop/statistics/measure.py": ["tests/statistics", "tests/spectral/test_density.py"],
    "specop/objectives/products.py": OBJECTIVES,
}
PYTEST = ["-q", "-x", "-n0", "-p", "no:cacheprovider", "--no-header", "-m"]

# --- Mistakes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """A place in a file, and what stands there instead."""

    path: str
    line: int
    start: int
    stop: int
    text: str
    source: str

    def apply(self) -> str:
        """The source with the mistake in it."""
        return self.source[: self.start] + self.text + self.source[self.stop :]

    def __str__(self) -> str:
        before = " ".join(self.source[self.start : self.stop].split())
        return f"{self.path}:{self.line}: {before}  ->  {' '.join(self.text.split())}"


# One kind of mistake each: at the very number that two floats are compared with, most tests never are.
_NEGATED = {ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"}
_OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Pow: "*"}
_CALLS = {"max": "min", "min": "max", "any": "all", "all": "any"}


def mutants(path: str) -> list[Mutant]:
    """Every mistake of the kinds below in one file."""
    source = (ROOT / path).read_text()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(line: int, column: int) -> int:
        # Columns of the syntax tree count bytes.
        text = source[starts[line - 1] : starts[line]]
        return starts[line - 1] + len(text.encode()[:column].decode())

    def ends(node: ast.AST) -> tuple[int, int]:
        return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)

    def texts(node: ast.AST) -> Iterator[str]:
        def inner(one: ast.AST) -> str:
            text = source[slice(*ends(one))]
            return f"({text})" if isinstance(one, (ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp)) else text

        match node:
            case ast.Compare(ops=[operator]):
                left, right = inner(node.left), inner(node.comparators[0])
                if type(operator) in _NEGATED:
                    yield f"{left} {_NEGATED[type(operator)]} {right}"
                else:
                    yield from ("True", "False")
            case ast.BinOp(left=left, op=operator, right=right) if not isinstance(left, ast.Constant) or not isinstance(
                left.value, str
            ):
                if type(operator) in _OPERATORS:
                    yield f"{inner(left)} {_OPERATORS[type(operator)]} {inner(right)}"
                if isinstance(operator, (ast.Add, ast.Sub)):
                    yield inner(left)
            case ast.BoolOp(op=operator, values=values):
                word = " or " if isinstance(operator, ast.And) else " and "
                yield word.join(map(inner, values))
                word = " and " if isinstance(operator, ast.And) else " or "
                yield from (word.join(map(inner, values[:i] + values[i + 1 :])) for i in range(len(values)))
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                yield inner(operand)
            case ast.Constant(value=bool()):
                yield str(not node.value)
            case ast.Constant(value=int() | float()):
                yield repr(node.value * 2) if node.value else "1"
            case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
                yield _CALLS[name] + source[ends(node.func)[1] : ends(node)[1]]
            case ast.Call(func=ast.Name(id="abs"), args=[argument]):
                yield inner(argument)
            case ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break() | ast.Expr(value=ast.Call()):
                yield "pass"
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield "pass"
            case ast.IfExp():
                yield from (inner(node.body), inner(node.orelse))

    tree = ast.parse(source)
    # Annotations are no code, and subscripts of them no numbers.
    ignored = {id(part) for node in ast.walk(tree) for one in annotations(node) for part in ast.walk(one)}
    found = []
    for node in ast.walk(tree):
        if id(node) not in ignored:
            found += [Mutant(path, node.lineno, *ends(node), text, source) for text in texts(node)]
    return sorted(found, key=lambda one: (one.line, one.start, one.text))


def annotations(node: ast.AST) -> list[ast.AST]:
    """What stands at a node for the type checker or for the reader, and zip's guard against what never is."""
    found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    if isinstance(node, ast.keyword) and node.arg == "strict":
        found.append(node)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        found.append(node)
    if isinstance(node, ast.JoinedStr):
        found.append(node)
    return [one for one in found if isinstance(one, ast.AST)]


# --- Tests ------------------------------------------------------------------------------------------------------------


class Watch:
    """Notes for every test its seconds, and the lines of the modules that it executes."""

    def __init__(self, root: Path, modules: list[str]) -> None:
        self.files = {str(root / module): module for module in modules}
        self.lines: dict[str, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        seen: set[tuple[str, int]] = set()

        def enter(frame: Any, event: str, _: Any) -> Any:
            return line if frame.f_code.co_filename in self.files else None

        def line(frame: Any, event: str, _: Any) -> Any:
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            return line

        start = time.perf_counter()
        sys.settrace(enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.seconds[item.nodeid] = time.perf_counter() - start
            for file, number in seen:
                self.lines[f"{self.files[file]}:{number}"].add(item.nodeid)


class QuickestFirst:
    """Runs the tests of a list in the order of their seconds."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.seconds.get(item.nodeid, np.inf))


def in_a_child(
    root: Path, arguments: list[str], plugin: object, limit: float, report: Path | None = None
) -> int | None:
    """The exit status of pytest in a process of its own; None if it takes longer than the limit in seconds."""

    def child() -> None:
        os.chdir(root)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        status = pytest.main([*PYTEST, *arguments], plugins=[plugin])
        if report:
            report.write_text(json.dumps([{key: sorted(ids) for key, ids in plugin.lines.items()}, plugin.seconds]))
        os._exit(int(status))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def main() -> int:
    """Return how many mutants survive."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("modules", nargs="*", default=list(MODULES), metavar="MODULE.py")
    parser.add_argument("--list", action="store_true", help="only print the mutants")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--lines", help="only those in these lines, as 10:20")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(MODULES):
        parser.error(f"no tests are listed for {unknown.pop()}")
    chosen = [one for module in options.modules for one in mutants(module)]
    if options.lines:
        first, last = map(int, options.lines.split(":"))
        chosen = [one for one in chosen if first <= one.line <= last]
    if options.sample:
        chosen = sorted(random.Random(options.seed).sample(chosen, min(options.sample, len(chosen))), key=str)
    if options.list:
        print(*chosen, sep="\n")
        return 0

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for name in ("specop", "backends", "tests", "examples", "docs"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        for tests in {tuple(MODULES[module]) for module in options.modules}:
            mine = [one for one in chosen if tuple(MODULES[one.path]) == tests]
            survivors += survivors_of(root, mine, list(tests))
    print(f"{len(survivors)} of {len(chosen)} mutants survive")
    return len(survivors)


def survivors_of(root: Path, chosen: list[Mutant], tests: list[str]) -> list[Mutant]:
    """Those that pass the tests of their lines, printed as they are found."""
    report, marks = root / "report.json", "core and not slow and not benchmark"
    if tests in (OBJECTIVES, SPLIT):
        import torch  # noqa: F401 - so that no child has to

        marks = marks.replace("core", "(core or torch)")
    modules = sorted({one.path for one in chosen})
    if in_a_child(root, [marks, *tests], Watch(root, modules), 3600, report) != 0:
        raise SystemExit(f"the tests of {', '.join(modules)} fail without a mutant, or take more than an hour")
    lines, seconds = json.loads(report.read_text())
    print(f"{len(chosen)} mutants, {len(seconds)} tests of {sum(seconds.values()):.0f} s", flush=True)
    survivors = []
    for count, mutant in enumerate(chosen, start=1):
        ids = lines.get(f"{mutant.path}:{mutant.line}") or of_module(lines, mutant.path)
        limit = 30 + 5 * sum(seconds[one] for one in ids)
        (root / mutant.path).write_text(mutant.apply())
        status = in_a_child(root, [marks, *ids], QuickestFirst(seconds), limit) if ids else 0
        (root / mutant.path).write_text(mutant.source)
        if status == 0:
            survivors.append(mutant)
            print(f"{count}: survives {len(ids)} tests: {mutant}", flush=True)
    return survivors


def of_module(lines: dict[str, list[str]], path: str) -> list[str]:
    """The tests that execute anything of a module: those of a line that only its import executes."""
    return sorted({one for place, ids in lines.items() if place.startswith(f"{path}:") for one in ids})


if __name__ == "__main__":
    sys.exit(min(main(), 100))
