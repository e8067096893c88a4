"""descent: minima of functions whose minima are known, and steps that are too long."""

import numpy as np
import pytest

from specop.errors import NonFiniteError
from specop.solvers.descent import descent

MATRIX = np.diag([1.0, 10.0, 100.0])


def quadratic(x):
    return 0.5 * x @ MATRIX @ x + 1.0, MATRIX @ x


def test_a_quadratic_is_minimized():
    found = descent(quadratic, np.array([1.0, -2.0, 3.0]), first_step=0.1, gtol=1e-8, max_steps=200)
    assert found.converged and found.value == pytest.approx(1.0)
    np.testing.assert_allclose(found.x, 0.0, atol=1e-6)
    assert found.gradients == found.values < 100


def test_rosenbrock():
    def valley(x):
        rise = x[1] - x[0] ** 2
        return (1 - x[0]) ** 2 + 100 * rise**2, np.array([-2 * (1 - x[0]) - 400 * x[0] * rise, 200 * rise])

    found = descent(valley, np.array([-1.2, 1.0]), first_step=0.1, gtol=1e-9, max_steps=2000)
    assert found.converged
    np.testing.assert_allclose(found.x, 1.0, atol=1e-5)


def test_steps_beyond_the_domain_are_shortened():
    def barrier(x):
        if not np.abs(x).max() < 1:
            raise NonFiniteError("the loss is inf")
        return -np.log(1 - x[0] ** 2), 2 * x / (1 - x**2)

    found = descent(barrier, np.array([0.9]), first_step=5.0, gtol=1e-8, max_steps=100)
    assert found.converged and abs(found.x[0]) < 1e-6
    with pytest.raises(NonFiniteError):
        descent(barrier, np.array([1.5]), first_step=0.1, gtol=1e-8, max_steps=100)


def test_the_limit_and_the_start_at_a_minimum_are_said():
    few = descent(quadratic, np.array([1.0, -2.0, 3.0]), first_step=0.1, gtol=1e-12, max_steps=3)
    assert not few.converged and "limit of 3 steps" in few.message
    there = descent(quadratic, np.zeros(3), first_step=0.1, gtol=1e-3, max_steps=3)
    assert there.converged and there.gradients == 1
