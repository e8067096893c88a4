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


@each_framework
def test_loss_and_gradient_come_from_one_pass_over_batches_of_different_size(framework):
    x = np.random.default_rng(0).normal(size=(7, 3))
    w = np.array([0.5, -1.0, 2.0])
    calls = []

    def loss(xp, params, batch):
        calls.append(None)
        return xp.mean(xp.sum(batch[0] * params["w"], -1) ** 2)

    objective = objective_of(framework, loss, {"w": w}, [(x[:5],), (x[5:],)])
    objective.gradient()
    if framework == "torch":
        calls.clear()
        objective.loss_and_gradient()
        assert len(calls) == 2
    value, gradient = objective.loss_and_gradient()
    np.testing.assert_allclose(float(value), np.mean((x @ w) ** 2), rtol=1e-12)
    np.testing.assert_allclose(host(gradient), 2 * x.T @ (x @ w) / 7, rtol=1e-12)
    elsewhere = objective.loss_and_gradient(2.0 * objective.theta)
    np.testing.assert_allclose(float(elsewhere[0]), 4 * float(value), rtol=1e-12)
