"""Top eigenvalues in JAX: this library, matfree, and SciPy on a jitted product."""

import jax
import jax.flatten_util
import numpy as np
from matfree import decomp, eig
from scipy.sparse.linalg import LinearOperator

from frameworks import Method, Solve, specop_methods
from jax_models import jax_problem
from peers import LANCZOS_STEPS, TOLERANCES, Eigenvalues, scipy_eigsh
from ports import Port, Task


def jax_methods() -> list[Method]:
    """Return what is compared; a method's `prepare` builds everything anew, compiled functions included."""
    return [
        *specop_methods(_fresh),
        Method("matfree", _matfree, LANCZOS_STEPS),
        Method("scipy on jvp of grad", _jvp_of_grad, TOLERANCES),
    ]


def _fresh(port: Port) -> Task:
    jax.clear_caches()
    return jax_problem(port)


def _matfree(port: Port) -> Solve:
    product, start = _product(port)
    compiled = {}

    def solve(k: int, steps: float) -> tuple[Eigenvalues, int]:
        count = int(steps)
        if count not in compiled:
            # The product is an argument of the decomposition, as in its documentation; the whole is one program.
            lanczos = eig.eigh_partial(decomp.tridiag_sym(count, reortho="full"))
            compiled[count] = jax.jit(lambda vector: lanczos(product, vector)[0])
        values = np.asarray(compiled[count](start), dtype=np.float64)
        return np.sort(values[np.argsort(-np.abs(values))[:k]]), count

    return solve


def _jvp_of_grad(port: Port) -> Solve:
    product, start = _product(port)
    jitted = jax.jit(product)

    def solve(k: int, tol: float) -> tuple[Eigenvalues, int]:
        shape = (start.size, start.size)
        operator = LinearOperator(shape, matvec=lambda x: np.array(jitted(x.ravel())), dtype=np.dtype(np.float32))
        return scipy_eigsh(operator, k, tol)

    return solve


def _product(port: Port):  # type: ignore[no-untyped-def]
    task = _fresh(port)
    theta, unravel = jax.flatten_util.ravel_pytree(task.params)
    gradient = jax.grad(lambda vector: task.loss(unravel(vector), task.batch))
    start = jax.random.normal(jax.random.key(0), theta.shape)
    return (lambda vector: jax.jvp(gradient, (theta,), (vector,))[1]), start
