"""The peers: each computes the k eigenvalues of largest magnitude of a Hessian in the way its users do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from derivatives import recomputed_operator, retained_products
from models import Problem

Eigenvalues = NDArray[np.float64]
Solve = Callable[[Problem, int, float], tuple[Eigenvalues, int]]

TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4)
LANCZOS_STEPS = (20, 25, 30, 35, 40, 45, 50, 60, 80, 100, 130, 160, 200)


@dataclass(frozen=True)
class Peer:
    """A method, its settings from the cheapest to the most exact, and the package it needs.

    `solve` maps a problem, the number of eigenvalues and a setting to the eigenvalues, ascending, and the number of
    products; a peer with more than one setting is calibrated to the cheapest that is exact enough.
    """

    name: str
    solve: Solve
    settings: tuple[float, ...]
    package: str | None = None


def specop_eigsh(problem: Problem, k: int, tol: float) -> tuple[Eigenvalues, int]:
    """Run this library as its README shows, its check for missed copies included."""
    return _specop(problem, k, tol, check_multiplicity=True)


def unchecked_specop_eigsh(problem: Problem, k: int, tol: float) -> tuple[Eigenvalues, int]:
    """Run this library without the check that no peer does."""
    return _specop(problem, k, tol, check_multiplicity=False)


def deflated_power_iteration(
    problem: Problem, k: int, tol: float, products_of: Callable[[Problem], Any] = retained_products
) -> tuple[Eigenvalues, int]:
    """Run PyHessian's documented algorithm: one eigenvalue after the other, each from a random vector.

    At most 100 products for each; it stops when the Rayleigh quotient changes by less than `tol`, relatively.
    Vectors are lists of tensors, as in PyHessian, and so are batches whose graphs do not fit into memory together where
    `products_of` is `derivatives.batchwise_products`.
    """
    product = products_of(problem)
    parameters = list(problem.model.parameters())
    generator = torch.Generator().manual_seed(0)
    values: list[float] = []
    vectors: list[list[Tensor]] = []
    products = 0
    for _ in range(k):
        vector = [torch.randn(parameter.shape, generator=generator) for parameter in parameters]
        value: float | None = None
        for _ in range(100):
            vector = orthonormal(vector, vectors)
            image = product(vector)
            products += 1
            previous, value = value, inner(image, vector)
            vector = orthonormal(list(image), [])
            if previous is not None and abs(previous - value) <= tol * abs(previous):
                break
        assert value is not None
        values.append(value)
        vectors.append(vector)
    return np.sort(np.array(values)), products


def hessian_eigenthings_lanczos(problem: Problem, k: int, steps: float) -> tuple[Eigenvalues, int]:
    """Run Lanczos of hessian-eigenthings with a given number of steps.

    It is told to reorthogonalize: without that, its default above 50 steps, it returns copies of the top eigenvalue.
    Its products by finite differences would be faster, but in float32 their eigenvalues are wrong by 10 % and more.
    """
    from hessian_eigenthings import lanczos

    with sdpa_kernel(SDPBackend.MATH):
        operator = eigenthings_operator(problem)
        counted = count_calls(operator, "matvec")
        result = lanczos(operator, k=k, max_iter=int(steps), reorthogonalize=True, seed=0)
    return np.sort(result.eigenvalues.double().numpy()), counted()


def eigenthings_operator(problem: Problem) -> Any:
    """Return the Hessian of hessian-eigenthings."""
    from hessian_eigenthings import HessianOperator

    def loss(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return problem.criterion(model(batch[0]), batch[1])  # type: ignore[no-any-return]

    return HessianOperator(problem.model, problem.batches, loss)


def curvlinops_scipy(problem: Problem, k: int, tol: float) -> tuple[Eigenvalues, int]:
    """Run SciPy's eigsh on the Hessian of curvlinops, without the latter's check that costs several passes."""
    from curvlinops import HessianLinearOperator

    with sdpa_kernel(SDPBackend.MATH):
        operator = curvlinops_operator(HessianLinearOperator, problem)
        return scipy_eigsh(operator.to_scipy(dtype=np.dtype(np.float32)), k, tol)


def curvlinops_operator(make: Callable[..., Any], problem: Problem) -> Any:
    """Return an operator of curvlinops by one of its classes, without the check that costs several passes."""
    return make(
        problem.model,
        problem.criterion,
        list(problem.model.parameters()),
        problem.batches,
        check_deterministic=False,
        num_data=sum(len(targets) for _, targets in problem.batches),
    )


def recomputation_scipy(problem: Problem, k: int, tol: float) -> tuple[Eigenvalues, int]:
    """Run SciPy's eigsh on a double backward computed from scratch for each product."""
    return scipy_eigsh(recomputed_operator(problem), k, tol)


def specop_scipy(problem: Problem, k: int, tol: float) -> tuple[Eigenvalues, int]:
    """Run SciPy's eigsh on this library's Hessian."""
    import specop

    hessian = specop.objective(problem.model, problem.criterion, problem.batches).hessian()
    return scipy_eigsh(hessian.to_scipy(), k, tol)


def one_blas_thread(solve: Solve) -> Solve:
    """Run a SciPy method with the BLAS of NumPy and SciPy on one thread.

    Few users know to do so. Without it, idle BLAS threads spin after each step of ARPACK beside the threads of torch,
    and products take up to 2.5 times as long on two cores.
    """

    def limited(problem: Problem, k: int, setting: float) -> tuple[Eigenvalues, int]:
        with threadpool_limits(1, user_api="blas"):
            return solve(problem, k, setting)

    return limited


PEERS = (
    Peer("specop.eigsh", specop_eigsh, TOLERANCES, "specop"),
    Peer("specop.eigsh, unchecked", unchecked_specop_eigsh, TOLERANCES, "specop"),
    Peer("scipy on specop", specop_scipy, TOLERANCES, "specop"),
    Peer("scipy on specop, 1 BLAS thread", one_blas_thread(specop_scipy), TOLERANCES, "specop"),
    Peer("scipy on recomputation", recomputation_scipy, TOLERANCES),
    Peer("scipy on recomputation, 1 BLAS thread", one_blas_thread(recomputation_scipy), TOLERANCES),
    Peer("scipy on curvlinops", curvlinops_scipy, TOLERANCES, "curvlinops"),
    Peer("scipy on curvlinops, 1 BLAS thread", one_blas_thread(curvlinops_scipy), TOLERANCES, "curvlinops"),
    Peer("hessian-eigenthings", hessian_eigenthings_lanczos, LANCZOS_STEPS, "hessian_eigenthings"),
    Peer("PyHessian algorithm", deflated_power_iteration, (1e-3,)),
)


def scipy_eigsh(operator: LinearOperator, k: int, tol: float) -> tuple[Eigenvalues, int]:
    """Run SciPy's eigsh from a fixed start and count its products.

    Parameters
    ----------
    operator : scipy.sparse.linalg.LinearOperator
    k : int
        Number of eigenvalues of largest magnitude.
    tol : float
        ARPACK's tolerance.

    Returns
    -------
    eigenvalues : ndarray of shape (k,)
        Ascending.
    products : int
    """
    counted = count_calls(operator, "_matvec")
    start = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(operator.dtype)
    values = eigsh(operator, k=k, tol=tol, v0=start)[0]
    return np.sort(values.astype(np.float64)), counted()


def count_calls(target: Any, name: str) -> Callable[[], int]:
    """Count the calls of a method of one object from now on; the returned function tells how many there were."""
    method = getattr(target, name)
    calls = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return method(*arguments, **options)

    setattr(target, name, counted)
    return lambda: calls


def orthonormal(vector: Sequence[Tensor], basis: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return a list of tensors orthogonalized against others, one after the other, with norm one."""
    pieces = [piece.clone() for piece in vector]
    for other in basis:
        overlap = inner(pieces, other)
        for piece, part in zip(pieces, other, strict=True):
            piece.add_(part, alpha=-overlap)
    norm = inner(pieces, pieces) ** 0.5
    return [piece / norm for piece in pieces]


def inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Return the inner product of two lists of tensors."""
    return float(sum((a * b).sum() for a, b in zip(first, second, strict=True)))


def _specop(problem: Problem, k: int, tol: float, *, check_multiplicity: bool) -> tuple[Eigenvalues, int]:
    import specop

    hessian = specop.objective(problem.model, problem.criterion, problem.batches).hessian()
    result = specop.eigsh(hessian, k=k, tol=tol, check_multiplicity=check_multiplicity)
    return result.eigenvalues, result.matvecs
