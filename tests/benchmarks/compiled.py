"""Products that torch's compiler has fused, beside those replayed from the tape: how many repay the compiling.

python tests/benchmarks/compiled.py [PROBLEM ...] prints a table, in processor time of one thread, children included.
With curvlinops installed, its products are timed too, as they are and with the batch's function compiled by torch.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

# Nothing that an earlier run has compiled.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import specop
from models import PROBLEMS, Problem
from peers import curvlinops_operator
from tables import Row, print_table

_ROUNDS, _PRODUCTS = 9, 8

Product = Callable[[], Tensor]


def compare_compiled(problem: Problem, kind: str) -> Row:
    """Return what compiled products of a matrix take, what making them took, and how many of them that is."""
    vector = torch.randn(problem.size, generator=torch.Generator().manual_seed(0))
    plain, fused = (
        getattr(specop.objective(problem.model, problem.criterion, problem.batches, compile=compile), kind)()
        for compile in (False, True)
    )
    first, _ = _seconds(lambda: plain @ vector)
    _seconds(lambda: fused @ vector)
    (compiling, wall), (again, _) = _seconds(lambda: fused @ vector), _seconds(lambda: fused @ vector)
    replayed, compiled = _alternated([lambda: plain @ vector, lambda: fused @ vector])
    difference = (plain @ vector - fused @ vector).norm() / (plain @ vector).norm()
    saved = statistics.median(a - b for a, b in zip(replayed, compiled, strict=True))
    return {
        "problem": problem.name,
        "matrix": kind,
        "replayed, ms": 1e3 * statistics.median(replayed),
        "compiled / replayed": statistics.median(b / a for a, b in zip(replayed, compiled, strict=True)),
        "first product, s": first,
        "compiling, s": compiling - again,
        "wall, s": wall,
        "products that repay it": round((compiling - again) / saved) if saved > 0 else None,
        "difference": float(difference),
    }


def compare_curvlinops(problem: Problem, kind: str) -> Row:
    """Return what curvlinops' products take, in units of replayed ones, and its first products."""
    from curvlinops import GGNLinearOperator, HessianLinearOperator

    def make() -> Any:
        return curvlinops_operator({"hessian": HessianLinearOperator, "ggn": GGNLinearOperator}[kind], problem)

    vector = torch.randn(problem.size, generator=torch.Generator().manual_seed(0))
    plain, eager, compiled = (
        specop.objective(problem.model, problem.criterion, problem.batches).hessian(),
        make(),
        make(),
    )
    compiled.__dict__["_mp"] = torch.compile(compiled._mp, dynamic=False)
    with sdpa_kernel(SDPBackend.MATH):
        firsts = [_seconds(lambda A=A: A @ vector)[0] for A in (plain, eager, compiled)]
        times = _alternated([lambda A=A: A @ vector for A in (plain, eager, compiled)])
    relative = [statistics.median(b / a for a, b in zip(times[0], other, strict=True)) for other in times[1:]]
    return {
        "problem": problem.name,
        "matrix": kind,
        "curvlinops / replayed": relative[0],
        "compiled": relative[1],
        "first, s": firsts[1],
        "compiled first, s": firsts[2],
        "specop first, s": firsts[0],
    }


def _alternated(products: list[Product]) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in products]
    for _ in range(_ROUNDS):
        for found, product in zip(times, products, strict=True):
            found.append(_seconds(lambda product=product: [product() for _ in range(_PRODUCTS)])[0] / _PRODUCTS)
    return times


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return the processor time of a call, with that of the compilers it starts, and the time on the clock."""
    wall, before = time.perf_counter(), _processor_time()
    call()
    return _processor_time() - before, time.perf_counter() - wall


def _processor_time() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or PROBLEMS:
        problem = PROBLEMS[name]()
        print_table(name, [compare_compiled(problem, kind) for kind in ("hessian", "ggn")])
        if find_spec("curvlinops") is not None:
            print_table("curvlinops", [compare_curvlinops(problem, kind) for kind in ("hessian", "ggn")])
