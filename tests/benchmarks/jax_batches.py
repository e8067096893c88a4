"""What new pages of memory cost a product in JAX on a CPU: the same data in one batch and in several."""

import importlib.util
import resource
import statistics
from collections.abc import Callable
from typing import Any

from models import PROBLEMS
from ports import Task, port
from tables import Row, print_table, ratio

_STEPS = 30
_BATCHES = (1, 2, 4, 8)


def measure_batches(repeats: int) -> list[Row]:
    """Time products with a transformer's Hessian, and 30 steps of Lanczos beside matfree's, and print two tables.

    Times are of the processor, of this process and of the kernel for it, in turn.

    Parameters
    ----------
    repeats : int
        Number of timings, of which medians are shown.

    Returns
    -------
    list of dict
    """
    if importlib.util.find_spec("jax") is None or importlib.util.find_spec("matfree") is None:
        print("notice: batches are left out, jax or matfree not installed")
        return []
    from jax_models import jax_problem

    task = jax_problem(port(PROBLEMS["transformer"]()))
    products, runs = {}, {"matfree, one program": _matfree(task)}
    for count in _BATCHES:
        name = f"{count} batch{'es' if count > 1 else ''}"
        products[name], runs[name] = _ours(task, count)
    return [
        *_table("a product with the Hessian of the transformer, JAX", products, repeats, "1 batch"),
        *_table(f"{_STEPS} steps of Lanczos with it", runs, repeats, "matfree, one program"),
    ]


def _ours(task: Task, count: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import jax

    import specop

    inputs, targets = task.batch
    size = len(inputs) // count
    data = [(inputs[i : i + size], targets[i : i + size]) for i in range(0, len(inputs), size)]
    objective = specop.objective(task.loss, params=task.params, data=data)
    hessian, vector = objective.hessian(), objective.theta
    kept = objective.hessian()

    def density() -> Any:
        objective.release()
        return specop.spectral_density(hessian, steps=_STEPS, probes=1)

    return lambda: jax.block_until_ready(kept @ vector), density


def _matfree(task: Task) -> Callable[[], Any]:
    import jax
    from jax.flatten_util import ravel_pytree
    from matfree import decomp, eig

    theta, tree = ravel_pytree(task.params)
    gradient = jax.grad(lambda vector: task.loss(tree(vector), task.batch))
    lanczos = eig.eigh_partial(decomp.tridiag_sym(_STEPS, reortho="full"))
    run = jax.jit(lambda vector: lanczos(lambda x: jax.jvp(gradient, (theta,), (x,))[1], vector)[0])
    return lambda: jax.block_until_ready(run(theta))


def _table(title: str, calls: dict[str, Callable[[], Any]], repeats: int, baseline: str) -> list[Row]:
    for call in calls.values():
        # The second product of an operator still checks it.
        call(), call()
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            found[name].append(_used(call))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    rows: list[Row] = [
        {
            "data in": name,
            "user": user,
            "system": system,
            "faults": int(faults),
            "x": ratio(user + system, sum(medians[baseline][:2])),
        }
        for name, (user, system, faults) in medians.items()
    ]
    print_table(title, rows)
    return rows


def _used(call: Callable[[], Any]) -> tuple[float, float, int]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (
        after.ru_utime - before.ru_utime,
        after.ru_stime - before.ru_stime,
        after.ru_minflt - before.ru_minflt,
    )
