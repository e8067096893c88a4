"""newton: steps on functions whose minima are known, and what limits them."""

import numpy as np
import pytest

import specop
from specop.solvers.newton import newton

START = np.array([-1.2, 1.0])


def rosenbrock(counts=None, **options):
    """Minimize Rosenbrock's function from where it is hard."""

    def hessian(x):
        entries = [[2 - 400 * (x[1] - 3 * x[0] ** 2), -400 * x[0]], [-400 * x[0], 200.0]]
        return specop.DenseOperator(np.array(entries), is_symmetric=True)

    return newton(
        lambda x: np.array((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2),
        lambda x: np.array([2 * (x[0] - 1) - 400 * x[0] * (x[1] - x[0] ** 2), 200 * (x[1] - x[0] ** 2)]),
        hessian,
        START,
        **{"gtol": 1e-10, "max_steps": 100, "rtol": 1e-8} | options,
    )


def test_a_minimum_is_found():
    found = rosenbrock()
    assert found.converged and found.message == "converged"
    np.testing.assert_allclose(found.x, 1.0, atol=1e-10)
    assert found.gradient_norms[-1] <= 1e-10 and found.matvecs >= len(found.gradient_norms)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"max_steps": 3}, "limit of 3 steps"), ({"max_matvecs": 12}, "limit of 12 products")],
)
def test_limits(options, text):
    found = rosenbrock(**options)
    assert not found.converged and text in found.message
    assert found.matvecs <= options.get("max_matvecs", 100)
    assert found.value < 24.2
