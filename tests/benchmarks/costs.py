"""What a product costs, in gradients of the same objective, for each curvature matrix and library."""

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import Problem, cnn, mlp, transformer
from peers import curvlinops_operator
from tables import Row, print_table

Product = Callable[[Tensor], Any]

MODELS = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def measure_costs(repeats: int) -> list[Row]:
    """Time products of an MLP, a CNN and a transformer and print a table for each.

    Products and gradients are timed in turn, and the shortest of either compared: on a shared machine medians tell who
    else was busy.

    Parameters
    ----------
    repeats : int
        A third of the number of timings.

    Returns
    -------
    list of dict
        One row for each model, matrix and library.
    """
    rows: list[Row] = []
    for name, make in MODELS.items():
        problem = make()
        found = _measure(problem, 3 * repeats)
        print_table(f"{name}: cost of a product in gradients, n = {problem.size:,}", found)
        rows += [{"model": name, **row} for row in found]
    return rows


def _measure(problem: Problem, rounds: int) -> list[Row]:
    vector = torch.randn(problem.size, generator=torch.Generator().manual_seed(0))
    gradient = _gradient(problem)
    rows: list[Row] = []
    # Fused attention has no double backward; none of the peers changes that for its user.
    with sdpa_kernel(SDPBackend.MATH):
        for matrix, library, product in _products(problem):
            first = _seconds(lambda product=product: product(vector))
            times = [(_seconds(lambda product=product: product(vector)), _seconds(gradient)) for _ in range(rounds)]
            products, gradients = (min(column) for column in zip(*times, strict=True))
            rows.append(
                {
                    "matrix": matrix,
                    "library": library,
                    "product / gradient": products / gradients,
                    "first / gradient": first / gradients,
                    "gradient in s": gradients,
                }
            )
    return rows


def _products(problem: Problem) -> Iterator[tuple[str, str, Product]]:
    """Yield the matrix, the library, and what multiplies a vector by it; the first call may prepare."""
    import specop

    for kept, budget in (("", None), (", recomputed", 0)):
        objective = specop.objective(
            problem.model, problem.criterion, problem.batches, likelihood="categorical", memory_budget=budget
        )
        yield "hessian", f"specop{kept}", objective.hessian().matvec
        yield "ggn", f"specop{kept}", objective.ggn().matvec
        yield "fisher", f"specop{kept}", objective.fisher().matvec
        yield "fisher, 10 draws", f"specop{kept}", objective.fisher(kind="mc", draws=10).matvec
        yield "empirical fisher", f"specop{kept}", objective.fisher(kind="empirical", of="samples").matvec
        jacobian = objective.jacobian()
        yield "jacobian", f"specop{kept}", jacobian.matvec
        outputs = torch.ones(jacobian.shape[0])
        yield "transposed jacobian", f"specop{kept}", lambda _, A=jacobian, u=outputs: A.rmatvec(u)
    objective = specop.objective(problem.model, problem.criterion, problem.batches)
    yield "hessian", "specop, differences", objective.finite_difference_hessian().matvec
    yield "all sample gradients", "specop", lambda _: sum(len(block) for block in objective.per_sample_gradients())
    if find_spec("curvlinops") is not None:
        yield from _curvlinops(problem)
    if find_spec("hessian_eigenthings") is not None:
        yield from _hessian_eigenthings(problem)


def _curvlinops(problem: Problem) -> Iterator[tuple[str, str, Product]]:
    import curvlinops

    for matrix, make in (
        ("hessian", curvlinops.HessianLinearOperator),
        ("ggn", curvlinops.GGNLinearOperator),
        ("empirical fisher", curvlinops.EFLinearOperator),
    ):
        if matrix == "empirical fisher" and type(problem.criterion) is not torch.nn.CrossEntropyLoss:
            continue  # it knows torch's own criteria only
        operator = curvlinops_operator(make, problem)
        yield matrix, "curvlinops", lambda vector, A=operator: A @ vector


def _hessian_eigenthings(problem: Problem) -> Iterator[tuple[str, str, Product]]:
    from hessian_eigenthings import GGNOperator, HessianOperator

    def loss(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
        return problem.criterion(model(batch[0]), batch[1])

    yield "hessian", "hessian-eigenthings", HessianOperator(problem.model, problem.batches, loss).matvec
    ggn = GGNOperator(
        problem.model,
        problem.batches,
        lambda model, batch: model(batch[0]),
        lambda outputs, batch: problem.criterion(outputs, batch[1]),
    )
    yield "ggn", "hessian-eigenthings", ggn.matvec


def _gradient(problem: Problem) -> Callable[[], object]:
    """Return the gradient in plain torch, by the attention kernel that a user gets."""
    parameters = list(problem.model.parameters())

    def gradient() -> object:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return [
                torch.autograd.grad(problem.criterion(problem.model(inputs), targets), parameters)
                for inputs, targets in problem.batches
            ]

    return gradient


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
