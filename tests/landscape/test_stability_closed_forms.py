"""stability against closed forms: plain steps on quadratics, saddles, inputs, and searches that end early."""

import numpy as np
import pytest

import specop
from landscape_cases import each_framework, functions, objective_of, quadratic
from specop.landscape import stability


@each_framework
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.7, False), (0.7, True)])
def test_plain_steps_on_a_quadratic(framework, momentum, nesterov):
    matrix, start = np.diag([4.0, 1.0, 0.5]), np.array([1.0, -2.0, 3.0])
    objective = objective_of(framework, *quadratic(matrix, at=start, minimum=0.5, floor=0.25))
    found = stability(objective, lr=0.3, momentum=momentum, nesterov=nesterov, k=3, steps=6)
    response = (1 + 2 * momentum) / (1 + momentum) if nesterov else 1 / (1 + momentum)
    np.testing.assert_allclose(found.sharpness.estimate, 4.0, rtol=1e-9)
    assert found.sharpness.standard_error == 0.0
    np.testing.assert_allclose(found.limit, 2 / (0.3 * response), rtol=1e-12)
    np.testing.assert_allclose(found.ratio, 4.0 * 0.3 * response / 2, rtol=1e-9)
    np.testing.assert_allclose(found.condition_number, 8.0, rtol=1e-9)
    # The steps themselves, in NumPy.
    x, m, losses = start - 0.5, np.zeros(3), []
    for _ in range(7):
        losses.append(0.25 + 0.5 * x @ matrix @ x)
        slope = matrix @ x
        m = momentum * m + slope
        x = x - 0.3 * (slope + momentum * m if nesterov else m)
    np.testing.assert_allclose(found.predicted, losses, rtol=1e-9)
    np.testing.assert_allclose(found.actual, losses, rtol=1e-9)
    for h, factor in zip((0.5, 1.0, 4.0), found.factors, strict=True):
        # (m, x) after a step, as a matrix times (m, x) before it.
        average = np.array([momentum, h])
        force = momentum * average + [0.0, h] if nesterov else average
        step = np.array([average, [0.0, 1.0] - 0.3 * force])
        np.testing.assert_allclose(factor, max(abs(np.linalg.eigvals(step))), rtol=1e-6)
    g = matrix @ (start - 0.5)
    np.testing.assert_allclose(found.fastest_rate, g @ g / (g @ matrix @ g), rtol=1e-9)


@each_framework
def test_without_a_rate_it_says_which_are_stable(framework):
    # Rosenbrock at its minimum.
    def loss(xp, params, batch):
        w = params["w"]
        return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2 + 0.0 * xp.sum(batch[0])

    found = stability(objective_of(framework, loss, {"w": np.ones(2)}))
    np.testing.assert_allclose(found.sharpness.estimate, 1001.60064, rtol=1e-8)
    np.testing.assert_allclose(found.condition_number, 2508.0096, rtol=1e-6)
    np.testing.assert_allclose(found.smallest.estimate, 0.399361, rtol=1e-5)
    assert np.isnan(found.limit) and np.isnan(found.ratio) and len(found.predicted) == 1
    rates = [found.stable_rates[name] for name in found.stable_rates]
    np.testing.assert_allclose(rates, np.array([2, 3.8, 3.8 / 2.8]) / found.sharpness.estimate, rtol=1e-12)
    assert "gradient descent" in str(found) and np.isnan(found.fastest_rate)


@each_framework
def test_a_saddle_has_no_condition_number_and_a_flat_direction_an_infinite_one(framework):
    saddle = stability(objective_of(framework, *quadratic(np.diag([2.0, -1.0]), at=[1.0, 1.0])), lr=0.1, k=2)
    assert np.isnan(saddle.condition_number) and "negative curvature" in str(saddle)
    assert saddle.behaviours == ("grows", "decays") and saddle.ratio == pytest.approx(0.1)
    np.testing.assert_allclose(saddle.factors, [1.1, 0.8])
    flat = stability(objective_of(framework, *quadratic(np.diag([2.0, 0.0]), at=[1.0, 1.0])), lr=1.2)
    assert flat.condition_number == np.inf and flat.behaviours == ("oscillates and grows",)
    down = stability(objective_of(framework, *quadratic(np.diag([-2.0, -1.0]), at=[1.0, 1.0])), lr=0.1)
    assert down.stable_rates["gradient descent"] == np.inf and down.fastest_rate == np.inf


@each_framework
def test_what_centring_and_normalizing_do_to_inputs(framework):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 6)) * [1, 2, 5, 0.1, 1, 0] + [3, 0, -4, 0.2, 0, 1.5]
    x[:, 4] = x[:, 0] - 2 * x[:, 1]
    objective = objective_of(framework, *quadratic(np.eye(2), at=[1.0, 1.0]))
    found = stability(objective, lr=0.1, layer_inputs=functions(framework).array(x))
    second, covariance = x.T @ x / 200, np.cov(x.T, bias=True)
    expected = {
        "as they are": np.linalg.eigvalsh(second)[1:],
        "centred": np.linalg.eigvalsh(covariance)[2:],
        "normalized": np.linalg.eigvalsh(np.corrcoef(x[:, :5].T))[1:],
    }
    assert found.input_ranks == {name: len(values) for name, values in expected.items()}
    for name, values in expected.items():
        np.testing.assert_allclose(found.input_conditions[name], values[-1] / values[0], rtol=1e-8)
    assert "centred (rank 4)" in str(found)
    with pytest.raises(specop.errors.InvalidInputError, match="Flatten"):
        stability(objective, layer_inputs=functions(framework).array(x[:, 0]))
    x[0, 0] = np.nan
    with pytest.raises(specop.errors.NonFiniteError, match="layer_inputs"):
        stability(objective, layer_inputs=functions(framework).array(x))


@pytest.mark.torch
def test_a_search_that_ends_early_gives_a_lower_bound_of_the_condition_number():
    matrix = np.diag(np.linspace(0.01, 3.0, 300))
    objective = objective_of("torch", *quadratic(matrix, at=np.ones(300)))
    found = stability(objective, condition_matvecs=15)
    assert found.smallest.interval[0] == -np.inf and 1 < found.condition_number < 300
    assert "or more" in str(found) and found.converged
    none = stability(objective, condition_matvecs=0, steps=0)
    assert np.isnan(none.condition_number) and none.matvecs < found.matvecs - 14
    assert stability(objective, max_matvecs=60).matvecs <= 60


@pytest.mark.torch
def test_a_sharpness_that_was_not_found_is_that_or_more():
    matrix = np.diag(np.append(np.linspace(0.0, 1.0, 2000), 1.2))
    objective = objective_of("torch", *quadratic(matrix, at=np.ones(2001)))
    with pytest.warns(specop.errors.ConvergenceWarning):
        found = stability(objective, max_matvecs=6, condition_matvecs=0, steps=0)
    assert 0.8 < found.sharpness.interval[0] < found.sharpness.estimate < 1.2 < found.sharpness.interval[1]


@pytest.mark.torch
def test_a_warm_start_saves_products():
    spectrum = np.concatenate([100 * 0.75 ** np.arange(10), np.linspace(0, 1, 290)])
    objective = objective_of("torch", *quadratic(np.diag(spectrum), at=np.ones(300)))
    again = objective_of("torch", *quadratic(np.diag(1.001 * spectrum), at=np.ones(300)))
    options = {"lr": 0.01, "steps": 0, "condition_matvecs": 0}
    first = stability(objective, **options)
    cold, warm = stability(again, **options), stability(again, v0=first, **options)
    np.testing.assert_allclose(warm.sharpness.estimate, 100.1, rtol=1e-6)
    # One product each is for the curvature along the gradient.
    assert warm.matvecs - 1 < 0.7 * (cold.matvecs - 1)


@each_framework
def test_a_loss_that_is_not_finite_is_refused(framework):
    objective = objective_of(framework, *quadratic(np.eye(2), at=[np.nan, 1.0]))
    with pytest.raises(specop.errors.NonFiniteError):
        stability(objective, lr=0.1)
