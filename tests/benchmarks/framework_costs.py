"""What a product costs in JAX and TensorFlow, in compiled gradients of the same loss."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from models import PROBLEMS
from ports import Port, Task, port
from tables import Row, print_table

# A model, its gradient, and what waits for a result.
Prepared = tuple[Task, Callable[[], Any], Callable[[Any], Any]]


def measure_costs_in(framework: str, names: Sequence[str], repeats: int) -> list[Row]:
    """Time products of the ported models and print a table for each.

    Products and gradients are timed in turn, and the shortest of either compared.

    Parameters
    ----------
    framework : {"jax", "tensorflow"}
    names : sequence of str
        Models, of `models.PROBLEMS`.
    repeats : int
        A third of the number of timings.

    Returns
    -------
    list of dict
        One row for each model and matrix.
    """
    if importlib.util.find_spec(framework) is None:
        print(f"notice: {framework} is left out, it is not installed")
        return []
    rows: list[Row] = []
    for name in names:
        ported = port(PROBLEMS[name]())
        found = [
            {"framework": framework, "model": name, **row} for row in _measure(_FRAMEWORKS[framework], ported, repeats)
        ]
        print_table(f"{framework}, {name}: cost of a product in compiled gradients", found)
        rows += found
    return rows


def _measure(make: Callable[[Port], Prepared], ported: Port, repeats: int) -> Iterator[Row]:
    task, gradient, wait = make(ported)

    def seconds(call: Callable[[], Any]) -> float:
        started = time.perf_counter()
        wait(call())
        return time.perf_counter() - started

    seconds(gradient)
    for matrix, product in _products(task):
        first = seconds(product)
        times = [(seconds(product), seconds(gradient)) for _ in range(3 * repeats)]
        products, gradients = (min(column) for column in zip(*times, strict=True))
        yield {
            "matrix": matrix,
            "product / gradient": products / gradients,
            "first in s": first,
            "gradient in s": gradients,
        }


def _products(task: Task) -> Iterator[tuple[str, Callable[[], Any]]]:
    import specop

    for kept, budget in (("", None), (", recomputed", 0)):
        objective = specop.objective(
            task.outputs,
            task.criterion,
            task.batch,
            params=task.params,
            likelihood=task.likelihood,
            memory_budget=budget,
        )
        vector = objective.gradient()
        for name, operator in (("hessian", objective.hessian()), ("ggn", objective.ggn())):
            yield f"{name}{kept}", lambda A=operator, v=vector: A.matvec(v)


def _in_jax(ported: Port) -> Prepared:
    import jax

    from jax_models import jax_problem

    task = jax_problem(ported)
    compiled = jax.jit(jax.grad(task.loss))
    return task, lambda: compiled(task.params, task.batch), jax.block_until_ready


def _in_tensorflow(ported: Port) -> Prepared:
    import tensorflow as tf

    from tensorflow_models import tensorflow_problem

    task = tensorflow_problem(ported)

    @tf.function
    def gradient() -> Any:
        with tf.GradientTape() as tape:
            value = task.loss(task.params, task.batch)
        # Dense, as the gradient of a flat vector is.
        return [tf.convert_to_tensor(part) for part in tape.gradient(value, list(task.params.values()))]

    # On a CPU a call returns when it is done.
    return task, gradient, lambda _: None


_FRAMEWORKS = {"jax": _in_jax, "tensorflow": _in_tensorflow}
