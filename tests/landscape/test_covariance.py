"""Covariances of selected samples: closed forms for few parameters, and what they are for many."""

import numpy as np
import pytest

import specop
from landscape_cases import each_framework, objective_of, quadratic
from specop.statistics.tilted import fitted_tilt

covariance = specop.landscape.covariance


def around(framework, eigenvalues, minimum=2.0, floor=0.3):
    """Return the objective of a quadratic at its minimum, along rotated axes."""
    n = len(eigenvalues)
    rotation = np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0]
    matrix = rotation @ np.diag(eigenvalues) @ rotation.T
    return objective_of(framework, *quadratic(matrix, np.full(n, minimum), minimum, floor))


def won(eigenvalues, offspring, count, seed=1):
    """Return winners of selection by NumPy, in the eigenvectors' axes, and their rises."""
    z = np.random.default_rng(seed).normal(size=(count, offspring, len(eigenvalues)))
    rises = 0.5 * np.sum(eigenvalues * z**2, axis=-1)
    best = np.argmin(rises, axis=1)
    return z[np.arange(count), best], rises[np.arange(count), best]


@each_framework
def test_two_equal_eigenvalues_give_a_covariance_over_the_number_of_offspring(framework):
    found = covariance(around(framework, [1.0, 1.0]), sigma=1.0, winners=60, offspring=5)
    np.testing.assert_array_less(np.abs(found.variances - 1 / 5), 4 * found.errors)
    assert found.constant.interval[0] < 1 / 5 < found.constant.interval[1]
    assert found.constant.standard_error < 0.2 / 5
    # With all eigenvalues both are the same number: sum of h d^2 is twice the rise.
    assert found.limit.estimate == pytest.approx(found.constant.estimate, rel=1e-6)
    assert found.is_inverse is True
    assert found.rank == 2
    assert found.quadratic_share == pytest.approx(1.0, rel=1e-6)


@pytest.mark.torch
def test_the_scale_of_samples_is_that_of_the_constant():
    pytest.importorskip("torch")
    one, other = (covariance(around("torch", [3.0, 3.0]), sigma=sigma, winners=50, offspring=5) for sigma in (1.0, 0.1))
    np.testing.assert_allclose(other.variances, one.variances, rtol=1e-6)
    assert other.constant.estimate == pytest.approx(0.01 * one.constant.estimate, rel=1e-6)
    assert other.t.estimate == pytest.approx(100 * one.t.estimate, rel=1e-5)
    # 2 E[L_min] / n is 3 / 5 of sigma^2, and the covariance sigma^2 / 5.
    assert one.constant.interval[0] < 3 / 5 < one.constant.interval[1]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("eigenvalues", "winners", "offspring"),
    [([9.0, 1.0], 60, 40), ([4.0, 2.0, 1.0], 30, 40), ([4.0, 3.0, 2.0, 1.0], 30, 40)],
    ids=["two", "three", "four"],
)
def test_few_parameters_and_many_offspring_give_the_inverse(eigenvalues, winners, offspring):
    pytest.importorskip("torch")
    h = np.array(eigenvalues)
    found = covariance(around("torch", h), sigma=1.0, winners=winners, offspring=offspring)
    np.testing.assert_allclose(found.eigenvalues, h, rtol=1e-6)
    best, rises = won(h, offspring, 20_000)
    right = (best**2).mean(axis=0)
    # Winners are heavier in the tails than normal ones: their scatter is that of NumPy's.
    error = (best**2).std(axis=0) / winners**0.5
    np.testing.assert_array_less(np.abs(found.variances - right), 3.5 * error)
    constant = 2 * rises.mean() / len(h)
    assert abs(found.limit.estimate - constant) < 4 * found.limit.standard_error
    assert abs(found.constant.estimate - constant) < 4 * found.constant.standard_error
    # The limit itself: eigenvalue times variance is the same along all.
    np.testing.assert_allclose(h * right, constant, rtol=0.12)
    assert found.is_inverse is not False
    assert found.alignment > found.isotropic_alignment
    if len(h) == 2:
        assert found.is_inverse
        assert "times the inverse Hessian" in str(found)


@pytest.mark.torch
def test_many_parameters_give_hardly_more_than_the_identity():
    pytest.importorskip("torch")
    h, offspring = np.geomspace(10.0, 0.1, 60), 10
    found = covariance(around("torch", h), sigma=1.0, winners=100, offspring=offspring, k=60)
    best, _ = won(h, offspring, 20_000)
    right = fitted_tilt(best, h, 0.95)
    assert found.t.interval[0] - 0.1 * right.estimate < right.estimate < found.t.interval[1] + 0.1 * right.estimate
    assert 0 < found.t.standard_error < 0.3 * right.estimate
    # That fit describes the winners.
    np.testing.assert_allclose((best**2).mean(axis=0), 1 / (1 + 2 * right.estimate * h), rtol=0.15)
    slope = found.slope.estimate
    assert -0.3 < slope < -0.03
    assert found.is_inverse is False
    assert "is not the inverse Hessian" in str(found)
    # Far more losses than the products that gave all eigenvalues.
    assert found.needed > 20 * found.eigen_products
    told = 1 - found.predicted[0]
    assert found.losses_needed(0.05) == pytest.approx(offspring * 2 / (0.05 * told) ** 2, rel=0.01)
    assert found.low_t.estimate > found.t.estimate


@each_framework
def test_points_where_selection_sees_something_else_are_refused(framework):
    error = specop.errors.DomainError
    with pytest.raises(error, match=r"no minimum: eigenvalues of the Hessian go from -1 to 2"):
        covariance(around(framework, [2.0, -1.0]), sigma=1.0)
    slope = objective_of(framework, *quadratic(np.diag([2.0, 1.0]), [5.0, 5.0], 0.0))
    with pytest.raises(error, match=r"the gradient, of norm 11\.2, moves their losses"):
        covariance(slope, sigma=0.1, winners=10, offspring=2)
    with pytest.raises(error, match=r"nothing can be selected\. Raise sigma=1e-09"):
        covariance(around(framework, [2.0, 1.0], floor=1e3), sigma=1e-9, winners=10, offspring=2)


@pytest.mark.torch
def test_a_network_in_single_precision_is_told_plainly(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AvgPool2d(3), torch.nn.Flatten(), torch.nn.Linear(16, 3)
    )
    x, y = torch.randn(64, 1, 8, 8), torch.randint(3, (64,))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y) + 0.01 * sum((p**2).sum() for p in model.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)

    def penalized(outputs, targets):
        penalty = sum((p**2).sum() for p in model.parameters())
        return torch.nn.functional.cross_entropy(outputs, targets) + 0.01 * penalty

    objective = specop.objective(model, penalized, [(x[:32], y[:32]), (x[32:], y[32:])])
    found = covariance(objective, winners=30, offspring=10, k=4)
    assert found.is_inverse is False
    # Kinks in between add to what the Hessian says.
    assert 0.8 < found.quadratic_share < 4.0
    assert "sigma^2 (I + 2 t sigma^2 H)^-1, t = " in str(found)
    assert f"rank at most 30 of {objective.n}" in str(found)
    found.save(tmp_path / "covariance.npz")
    again = specop.load(tmp_path / "covariance.npz")
    assert again.t == found.t
    assert again.needed == found.needed
    ax = found.plot()
    assert ax.get_xlabel() == "eigenvalue of the Hessian"
    ax.figure.clf()


@pytest.mark.torch
def test_wrong_arguments_are_named():
    pytest.importorskip("torch")
    objective, error = around("torch", [1.0, 2.0]), specop.errors.InvalidInputError
    for arguments, text in [
        ({"winners": 9}, "winners=9 and offspring=20"),
        ({"offspring": 1}, "winners=100 and offspring=1"),
        ({"sigma": -1.0}, "sigma must be a positive number"),
        ({"rtol": 0.0}, "rtol must be a positive number"),
    ]:
        with pytest.raises(error, match=text):
            covariance(objective, **arguments)
