"""The losses that tests of the landscape are made of."""

import numpy as np

from landscape_cases import each_framework, host, objective_of, quadratic


@each_framework
def test_a_quadratic_has_its_matrix_as_hessian(framework):
    matrix = np.diag([3.0, 1.0, -2.0])
    objective = objective_of(framework, *quadratic(matrix, at=[1.0, 2.0, 3.0], minimum=1.0, floor=0.5))
    np.testing.assert_allclose(float(objective.loss()), 0.5 + 0.5 * (1 - 2 * 4), rtol=1e-12)
    np.testing.assert_allclose(host(objective.gradient()), [0, 1, -4], rtol=1e-12)
    hessian = objective.hessian()
    found = [host(hessian @ hessian.backend.from_host(column, hessian.domain)) for column in np.eye(3)]
    np.testing.assert_allclose(found, matrix, rtol=1e-12)
