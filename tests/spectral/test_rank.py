"""rank: counted with a certificate, or estimated with an interval that covers."""

import json

import numpy as np
import pytest
from matplotlib import pyplot as plt

import specop
from cases import each_algorithm_case
from specop.errors import ConvergenceWarning, InvalidInputError, NotConvergedError


def constructed(n, rank, copies=1, seed=0):
    """Eigenvalues of size 1e-2 to 5 of both signs, each as often as said, and zeros perturbed at 1e-9."""
    values = np.linspace(5, 1e-2, rank // copies) * np.where(np.arange(rank // copies) % 3, 1, -1)
    return np.concatenate([np.repeat(values, copies), 1e-9 * np.random.default_rng(seed).normal(size=n - rank)])


@each_algorithm_case
@pytest.mark.parametrize(("rank", "copies"), [(20, 1), (60, 3), (60, 60)])
def test_low_ranks_take_about_as_many_products(case, rank, copies):
    result = specop.rank(specop.DiagonalOperator(case.array(constructed(2000, rank, copies))))
    assert (result.rank, result.interval, result.method) == (rank, (rank, rank), "exact")
    assert result.nullity == 2000 - rank and result.matvecs <= rank + 4 * copies + 20
    assert 1e-9 < result.gap[0] < result.threshold < result.gap[1]
    assert result.gap[1] == pytest.approx(1e-2 if rank > copies else 5, rel=1e-2)


def test_many_nonzero_eigenvalues():
    medium = specop.rank(specop.DiagonalOperator(constructed(2000, 300, copies=10)))
    assert medium.rank == 300 and medium.matvecs < 340
    nearly_full = specop.rank(specop.DiagonalOperator(constructed(300, 290)))
    assert nearly_full.rank == 290 and nearly_full.matvecs <= 300


@pytest.mark.slow
def test_rank_1990_of_2000():
    result = specop.rank(specop.DiagonalOperator(constructed(2000, 1990)))
    assert (result.rank, result.matvecs) == (1990, 2000)


@each_algorithm_case
def test_ordinary_inputs(case):
    assert specop.rank(case.array(np.zeros((5, 5)))).rank == 0
    assert specop.rank(case.array(np.eye(6))).rank == 6
    assert specop.rank(case.array([[2.0]])).rank == 1
    gram = np.random.default_rng(0).normal(size=(30, 7))
    assert specop.rank(case.array(gram @ gram.T)).rank == 7


def test_a_threshold_of_ones_own():
    values = 1.0 / np.arange(1, 301) ** 2
    operator = specop.DiagonalOperator(values)
    assert specop.rank(operator).rank == 300
    result = specop.rank(operator, 1e-3)
    assert result.rank == np.sum(values > 1e-3) and result.gap[0] <= 1e-3 < result.gap[1]
    low = specop.rank(specop.DiagonalOperator(constructed(3000, 40)), 1e-6)
    assert low.rank == 40 and low.matvecs < 60
    assert specop.rank(np.diag([1.0, 1e-8, 1e-20]), 0.0).interval == (2, 3)


def test_deep_linear_network():
    # Hessian of |W2 W1 X - Y|^2 at a solution with a target of rank 3: 2 J'J, J of rank 3 (5 + 5 - 3) = 21.
    rng = np.random.default_rng(0)
    first, second, inputs = rng.normal(size=(3, 5)), rng.normal(size=(5, 3)), rng.normal(size=(5, 40))
    columns = []
    for i in range(30):
        change = np.eye(30)[i]
        lower, upper = change[:15].reshape(3, 5), change[15:].reshape(5, 3)
        columns.append(((second @ lower + upper @ first) @ inputs).ravel())
    jacobian = np.array(columns).T
    result = specop.rank(jacobian.T @ jacobian / 40)
    assert result.rank == 21 and result.matvecs <= 26


def estimated(values, seed, products=200):
    with pytest.warns(ConvergenceWarning, match="estimates their number"):
        return specop.rank(specop.DiagonalOperator(values), max_matvecs=products, seed=seed)


def test_estimates_where_counting_takes_too_much():
    values = np.concatenate([np.linspace(0.5, 5, 1500), np.zeros(3500)])
    result = estimated(values, 0)
    assert result.method == "quadrature" and not result.converged and result.matvecs <= 200
    assert result.interval[0] <= 1500 <= result.interval[1] and result.interval[1] - result.interval[0] < 200
    assert abs(result.rank - 1500) < 50
    assert result.gap[0] < 0.05 and "5000" in str(result)


def coverage(values, runs):
    truth = np.sum(values != 0)
    found = [estimated(values, seed).interval for seed in range(runs)]
    return sum(low <= truth <= high for low, high in found)


LOW = {
    "spiked": np.concatenate([100 * 0.75 ** np.arange(10), np.linspace(1, 2, 600), np.zeros(1400)]),
    "power": np.concatenate([100 / np.arange(1.0, 801), np.zeros(1200)]),
    "flat": np.concatenate([np.linspace(1, 3, 1000), np.zeros(1000)]),
}


@pytest.mark.parametrize("name", LOW)
def test_intervals_cover_in_a_few_runs(name):
    assert coverage(LOW[name], 5) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", LOW)
def test_intervals_cover_in_many_runs(name):
    assert coverage(LOW[name], 200) >= 180


@pytest.mark.parametrize("products", [1, 2, 3, 5, 9, 199, 200])
def test_the_limit_is_that_of_all_products(products):
    with pytest.warns(ConvergenceWarning, match="estimates their number"):
        result = specop.rank(specop.DiagonalOperator(np.linspace(0.5, 5, 3000)), max_matvecs=products)
    assert 0 < result.matvecs <= products
    assert result.interval[0] <= result.rank == result.estimate <= result.interval[1]


def test_failure_raises_on_request():
    with pytest.raises(NotConvergedError, match="Raise max_matvecs=200") as caught:
        specop.rank(specop.DiagonalOperator(LOW["flat"]), max_matvecs=200, raise_on_failure=True)
    assert caught.value.result.method == "quadrature" and caught.value.result.standard_error > 0


def test_kept_and_drawn(tmp_path):
    result = specop.rank(specop.DiagonalOperator(constructed(300, 20)))
    result.save(tmp_path / "rank.npz")
    again = specop.load(tmp_path / "rank.npz")
    np.testing.assert_equal(again.summary(), result.summary())
    json.dumps(result.summary())
    for made in (again, specop.rank(np.zeros((4, 4))), estimated(LOW["flat"], 0)):
        ax = made.plot()
        ax.figure.canvas.draw()
        plt.close(ax.figure)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"threshold": -1}, "threshold must"),
        ({"confidence": 1}, "between 0 and 1"),
        ({"max_matvecs": 0}, "an integer of at least 1"),
        ({"seed": -1}, "seed must"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(InvalidInputError, match=text):
        specop.rank(np.eye(3), **arguments)
    with pytest.raises(InvalidInputError, match=r"A\.T @ A"):
        specop.rank(np.ones((3, 4)))
