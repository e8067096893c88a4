"""Adapters of low rank through training: what is known while one factor is zero, and beside the adapted weight."""

import numpy as np

from landscape_cases import each_framework, host, objective_of
from specop.training import Monitor

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((16, 5)), RNG.standard_normal((16, 3))
START = {
    "weight": RNG.standard_normal((5, 3)),
    "lora_A": RNG.standard_normal((5, 2)),
    "lora_B": np.zeros((2, 3)),
}


def regression(xp, params, batch):
    """A linear layer with an adapter, by squared errors."""
    found = batch[0] @ (params["weight"] + params["lora_A"] @ params["lora_B"])
    return xp.mean((found - batch[1]) ** 2)


def hessian_of_adapters(A, B, weight):
    """The Hessian in the entries of A and then of B, and that in the weight, which is constant."""
    scale = 2.0 / Y.size
    slope = scale * X.T @ (X @ (weight + A @ B) - Y)
    curvature = scale * np.kron(X.T @ X, np.eye(3))
    # The weight moves by a B + A b, in its first derivatives, and by a b.
    derivative = np.concatenate([np.kron(np.eye(5), B.T), np.kron(A, np.eye(3))], axis=1)
    found = derivative.T @ curvature @ derivative
    coupling = np.einsum("io,rs->irso", slope, np.eye(2)).reshape(10, 6)
    found[:10, 10:] += coupling
    found[10:, :10] += coupling.T
    return found, curvature


@each_framework
def test_adapters_beside_the_weight_that_they_adapt(framework):
    what = {"eigenvalues": {"k": 2, "which": "BE", "tol": 1e-6}}

    def make(select):
        return lambda factors: objective_of(framework, regression, {**START, "lora_B": factors}, (X, Y), select=select)

    adapters, weight = (Monitor(make(select), every=1, what=what) for select in (["lora_A", "lora_B"], "weight"))
    for step, factors in enumerate([np.zeros((2, 3)), RNG.standard_normal((2, 3))]):
        dense, curvature = hessian_of_adapters(START["lora_A"], factors, START["weight"])
        for monitor, right in ((adapters, dense), (weight, curvature)):
            numbers = monitor.record(step, params=factors).numbers
            values = np.linalg.eigvalsh(right)
            np.testing.assert_allclose(
                [numbers["eigenvalue_1"], numbers["eigenvalue_2"]], values[[-1, 0]], atol=1e-6 * values[-1]
            )
    # The slope of the loss is negative curvature where one factor is zero; that in the weight is a square.
    assert adapters.history["eigenvalue_2"][0] < -1e-2 and weight.history["eigenvalue_2"].min() > 0


@each_framework
def test_a_change_of_one_factor_changes_nothing_while_the_other_is_zero(framework):
    start = objective_of(framework, regression, START, (X, Y), select="lora_A")
    assert not host(start.gradient()).any() and not host(start.hessian().to_dense()).any()
