"""What eigsh costs besides its products: time against memory traffic, peak memory against the basis, and witnesses."""

import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from models import PROBLEMS, Problem, large
from ports import port
from tables import Row, print_table

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_overhead(k: int, repeats: int) -> list[Row]:
    """Measure eigsh on a CNN with a million parameters and print two tables.

    Parameters
    ----------
    k : int
        Number of eigenvalues.
    repeats : int
        How often eigsh is timed; the run with the median overhead is shown.

    Returns
    -------
    list of dict
        A row on time and a row on memory.
    """
    problem = large()
    _timed_eigsh(problem, k)  # untimed: whatever a process does once
    times = sorted((_timed_eigsh(problem, k) for _ in range(repeats)), key=lambda row: row["outside"])
    row: Row = dict(times[len(times) // 2])
    print_table(f"time of eigsh outside of its products, k = {k}, n = {problem.size:,}, median of {repeats}", [row])
    memory = _memory(k)
    print_table("peak memory of the process in MB", [memory])
    long = _in_child("long", 20)
    print_table("eigsh k = 20, ncv = 40 on a diagonal matrix with n = 10,000,000, float32", [long])
    return [row, memory, long]


def measure_witnesses(names: Sequence[str], k: int, repeats: int) -> list[Row]:
    """Time what first products are held against, for each model and framework, in processor time, and print a table.

    Parameters
    ----------
    names : sequence of str
        Models, of `models.PROBLEMS`.
    k : int
        Number of eigenvalues that eigsh is timed with.
    repeats : int
        How often it is timed; the shortest counts.

    Returns
    -------
    list of dict
        A row for each model, framework and matrix.
    """
    rows: list[Row] = []
    for name in names:
        problem = PROBLEMS[name]()
        for framework in ("torch", "jax", "tensorflow"):
            if importlib.util.find_spec(framework) is not None:
                rows += [{"model": name, **row} for row in _witnesses(problem, framework, k, repeats)]
    print_table("what the witness of a first product takes", rows)
    return rows


def _witnesses(problem: Problem, framework: str, k: int, repeats: int) -> Iterator[Row]:
    import specop
    from specop.objectives import products

    if framework == "torch":
        objective = specop.objective(problem.model, problem.criterion, problem.batches)
    else:
        made = importlib.import_module(f"{framework}_models")
        task = getattr(made, f"{framework}_problem")(port(problem))
        given = {"params": task.params, "likelihood": task.likelihood}
        objective = specop.objective(task.outputs, task.criterion, task.batch, **given)
    verify, times = products.verify, list[float]()

    def timed(*arguments: Any) -> Any:
        started = time.process_time()
        found = verify(*arguments)
        times.append(time.process_time() - started)
        deviations.append(found.reason or f"{found.deviation:.0e}")
        return found

    theta = objective.theta
    for matrix in ("hessian", "ggn", "jacobian"):
        deviations: list[str] = []
        whole = []
        with mock.patch.object(products, "verify", timed):
            # At a given point each operator is new, while what was compiled stays.
            for _ in range(1 + repeats):
                operator = getattr(objective, matrix)(theta)
                started = time.process_time()
                if matrix == "jacobian":
                    operator @ theta
                else:
                    specop.eigsh(operator, k=k)
                whole.append(time.process_time() - started)
        first, later = times[-1 - repeats], min(times[-repeats:])
        yield {
            "framework": framework,
            "matrix": matrix,
            "deviation": deviations[-1],
            "first in s": first,
            "later in s": later,
            "% of first eigsh": None if matrix == "jacobian" else 100 * first / whole[0],
            "% of later": None if matrix == "jacobian" else 100 * later / min(whole[1:]),
        }


def _timed_eigsh(problem: Problem, k: int) -> dict[str, Any]:
    import specop

    hessian = specop.objective(problem.model, problem.criterion, problem.batches).hessian()
    return _timed(hessian, k, None, copy_speed(problem.size))


def _timed(operator: Any, k: int, ncv: int | None, speed: float) -> dict[str, Any]:
    # A product is timed where the algorithm calls it, and Gram-Schmidt where it counts its rows.
    import specop

    backend, n = operator.backend, operator.shape[0]
    inside: list[float] = []
    rows: list[int] = []
    product, orthogonalize = operator._matvec, backend.orthogonalize_

    def timed(vector: Any) -> Any:
        started = time.perf_counter()
        image = product(vector)
        inside.append(time.perf_counter() - started)
        return image

    def counted(vector: Any, basis: Any, count: int, near: Any) -> Any:
        # A start vector and a repeated pass have no near rows: they belong to no step.
        rows.extend([count] if near else [])
        return orthogonalize(vector, basis, count, near)

    with mock.patch.object(operator, "_matvec", timed), mock.patch.object(backend, "orthogonalize_", counted):
        started = time.perf_counter()
        result = specop.eigsh(operator, k=k, ncv=ncv)
        total = time.perf_counter() - started
    outside = total - sum(inside)
    traffic = 4 * sum(rows) * n * operator.dtype.itemsize / speed
    return {
        "products": result.matvecs,
        "seconds": total,
        "in products": sum(inside),
        "outside": outside,
        "four reads a step": traffic,
        "outside / reads (goal 1.5)": outside / traffic,
        "outside in % (goal 5)": 100 * outside / total,
    }


def copy_speed(n: int, rows: int = 20) -> float:
    """Return the machine's copy speed in bytes a second, read plus written, for float32 blocks of a basis' size.

    Parameters
    ----------
    n, rows : int
        Shape of the block.

    Returns
    -------
    float
    """
    source, target = torch.ones(rows, n), torch.zeros(rows, n)
    seconds: list[float] = []
    for _ in range(9):
        started = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - started)
    return 2 * source.numel() * source.element_size() / statistics.median(seconds)


def _memory(k: int) -> Row:
    one, many = _in_child("product", k), _in_child("eigsh", k)
    basis = many["vectors"] * many["size"] * 4 / 1e6
    return {
        "one product": one["peak"],
        "eigsh": many["peak"],
        "difference": many["peak"] - one["peak"],
        "basis vectors": int(many["vectors"]),
        "basis": basis,
        "difference / basis (goal 1.1)": (many["peak"] - one["peak"]) / basis,
    }


def _long(k: int, ncv: int, n: int) -> Row:
    import specop

    operator = specop.DiagonalOperator(100 / torch.arange(1, n + 1, dtype=torch.float32))
    speed = copy_speed(n, rows=2)
    specop.eigsh(specop.DiagonalOperator(operator.entries[:1000].clone()), k=k, ncv=ncv)  # what a process takes once
    before = peak_from_here()()
    peak = peak_from_here()
    row = _timed(operator, k, ncv, speed)
    vectors = (peak() - before) / (4 * n / 1e6)
    return {**row, "vectors held": vectors, "over ncv + 2 (goal 1.1)": vectors / (ncv + 2)}


def _in_child(task: str, k: int) -> dict[str, float]:
    command = [sys.executable, __file__, task, str(k)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def _child(task: str, k: int) -> None:
    from run import find_specop

    find_specop()
    import specop

    if task == "long":
        print(json.dumps(_long(k, ncv=40, n=10_000_000)))
        return
    problem = large()
    peak = peak_from_here()
    hessian = specop.objective(problem.model, problem.criterion, problem.batches).hessian()
    vectors = 0
    if task == "product":
        hessian @ torch.randn(problem.size, generator=torch.Generator().manual_seed(0))
    else:
        # The basis is taken as it grows, so its largest extent is what Gram-Schmidt saw, and the pending vector.
        backend, seen = hessian.backend, [0]
        orthogonalize: Callable[..., Any] = backend.orthogonalize_

        def noted(vector: Any, basis: Any, count: int, near: Any) -> Any:
            seen.append(count)
            return orthogonalize(vector, basis, count, near)

        with mock.patch.object(backend, "orthogonalize_", noted):
            specop.eigsh(hessian, k=k)
        vectors = max(seen) + 1
    print(json.dumps({"peak": peak(), "vectors": vectors, "size": problem.size}))


def peak_from_here() -> Callable[[], float]:
    """Return what tells the largest memory of this process from now on, in MB."""
    # Linux can forget the peak of the training before; its ru_maxrss moreover begins at that of the parent process.
    try:
        _RESET.write_text("5")
    except OSError:
        unit = 1e6 if sys.platform == "darwin" else 1e3
        return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return lambda: next(
        int(line.split()[1]) * 1024 / 1e6 for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM")
    )


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]))
