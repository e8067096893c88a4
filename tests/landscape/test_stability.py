"""stability: limits against iterated optimizers, and what else it says against closed forms."""

import numpy as np
import pytest

import specop
from landscape_cases import each_framework, host, objective_of, quadratic
from optimizer_cases import MATRIX, MEANS, MOMENTS, RUNS, SIZES, growth
from specop.landscape import stability

START = 1e-30 * np.random.default_rng(0).normal(size=5)
LARGEST = np.linalg.eigvalsh(MATRIX)[-1]
ADAM_MEMORY = 1 - 0.9**7


def scaled_largest(P, added=0.0):
    """The largest eigenvalue of P^-1/2 (H + added) P^-1/2."""
    D = np.diag(1 / np.sqrt(np.broadcast_to(P, 5)))
    return np.linalg.eigvalsh(D @ (MATRIX + added * np.eye(5)) @ D)[-1]


def adam_denominator(v, second, epsilon=1e-8):
    return ADAM_MEMORY * (np.sqrt(v / (1 - second**7)) + epsilon)


# name: (framework, optimizer, options besides the rate, sharpness, limit times the rate)
HELD = {
    "sgd": ("torch", "SGD", {}, LARGEST, 2.0),
    "heavy ball": ("torch", "SGD", {"momentum": 0.8}, LARGEST, 3.6),
    "dampened": ("torch", "SGD", {"momentum": 0.8, "dampening": 0.5}, LARGEST, 7.2),
    "dampened without momentum": ("torch", "SGD", {"dampening": 0.5}, LARGEST, 2.0),
    "nesterov": ("torch", "SGD", {"momentum": 0.8, "nesterov": True}, LARGEST, 3.6 / 2.6),
    "decayed sgd": ("torch", "SGD", {"momentum": 0.8, "weight_decay": 0.3}, LARGEST + 0.3, 3.6),
    "adam": ("torch", "Adam", {"betas": (0.9, 0.99)}, scaled_largest(adam_denominator(MOMENTS, 0.99)), 38.0),
    "adam, epsilon": (
        "torch",
        "Adam",
        {"betas": (0.9, 0.99), "eps": 0.7},
        scaled_largest(adam_denominator(MOMENTS, 0.99, 0.7)),
        38.0,
    ),
    "amsgrad": (
        "torch",
        "Adam",
        {"betas": (0.9, 0.99), "amsgrad": True},
        scaled_largest(adam_denominator(1.5 * MOMENTS, 0.99)),
        38.0,
    ),
    "coupled adam": (
        "torch",
        "Adam",
        {"betas": (0.9, 0.99), "weight_decay": 0.4},
        scaled_largest(adam_denominator(MOMENTS, 0.99), 0.4),
        38.0,
    ),
    "rmsprop": ("torch", "RMSprop", {"eps": 0.2}, scaled_largest(np.sqrt(MOMENTS) + 0.2), 2.0),
    "rmsprop, momentum": (
        "torch",
        "RMSprop",
        {"eps": 0.2, "momentum": 0.7},
        scaled_largest(np.sqrt(MOMENTS) + 0.2),
        3.4,
    ),
    "centered rmsprop": (
        "torch",
        "RMSprop",
        {"centered": True, "weight_decay": 0.2},
        scaled_largest(np.sqrt(MOMENTS - MEANS**2) + 1e-8, 0.2),
        2.0,
    ),
}
only = [pytest.param(name, marks=getattr(pytest.mark, case[0])) for name, case in HELD.items()]


@pytest.mark.parametrize("case", only)
def test_an_optimizer_decays_below_the_limit_and_grows_above(case):
    framework, kind, options, sharpness, limit = HELD[case]
    for factor, grows in ((0.98, False), (1.02, True)):
        rate = factor * limit / sharpness
        run = RUNS[framework](kind, START, lr=rate, **options)
        found = stability(run.objective, run.optimizer)
        np.testing.assert_allclose(found.sharpness.estimate, sharpness, rtol=1e-6)
        np.testing.assert_allclose(found.limit, limit / rate, rtol=1e-6)
        np.testing.assert_allclose(found.ratio, factor, rtol=1e-6)
        assert found.optimizer == kind and found.rate == pytest.approx(rate)
        assert found.preconditioned == (kind != "SGD")
        assert (growth(run) > 1) == grows == (found.factors[-1] > 1)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("kind", "options", "groups", "P", "added"),
    [
        ("SGD", {"momentum": 0.9}, [{"lr": 1.0}, {"lr": 0.25}], [1, 1, 4, 4, 4], 0.0),
        ("SGD", {"momentum": 0.9}, [{"lr": 0.5, "weight_decay": 0.3}, {"lr": 0.5}], 2.0, np.diag([0.3, 0.3, 0, 0, 0])),
    ],
)
def test_groups_are_scaled_by_their_rates(kind, options, groups, P, added):
    D = np.diag(1 / np.sqrt(np.broadcast_to(P, 5)))
    sharpness = np.linalg.eigvalsh(D @ (MATRIX + added) @ D)[-1]
    for factor, grows in ((0.98, False), (1.02, True)):
        scale = factor * 3.8 / sharpness
        own = [{**group, "lr": scale * group["lr"]} for group in groups]
        run = RUNS["torch"](kind, START, groups=own, **options)
        found = stability(run.objective, run.optimizer)
        np.testing.assert_allclose(found.ratio, factor, rtol=1e-6)
        assert (growth(run) > 1) == grows
        if own[0]["lr"] != own[1]["lr"]:
            np.testing.assert_allclose(found.limit, 3.8, rtol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("decays", "rates"), [((0.4, 0.4), (1.0, 1.0)), ((0.5, 0.0), (1.0, 1.0)), ((0.5, 0.1), (1.0, 0.3))]
)
def test_decoupled_weight_decay_lowers_the_limit(decays, rates):
    P = adam_denominator(MOMENTS, 0.99)

    def ratio(scale):
        """The force over (2 - decay) where a step is turned round, by the definition of AdamW's step."""
        eta, decay = (np.repeat(np.multiply(values, scale), SIZES) for values in (rates, np.multiply(decays, rates)))
        D = np.diag(np.sqrt(eta / P / (2 - decay)))
        return np.linalg.eigvalsh(D @ MATRIX @ D)[-1] * 0.1 / 1.9

    def at_ratio(wanted):
        low, high = 0.0, 3.9
        for _ in range(80):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if ratio(middle) < wanted else (low, middle)
        return low

    for wanted, grows in ((0.98, False), (1.02, True)):
        scale = at_ratio(wanted)
        groups = [{"lr": rate * scale, "weight_decay": decay} for rate, decay in zip(rates, decays, strict=True)]
        run = RUNS["torch"]("AdamW", START, groups=groups, betas=(0.9, 0.99))
        found = stability(run.objective, run.optimizer)
        np.testing.assert_allclose(found.ratio, wanted, rtol=1e-6)
        assert (growth(run) > 1) == grows
        if decays[0] == decays[1]:
            np.testing.assert_allclose(found.limit, 1.9 * (2 - scale * decays[0]) / (0.1 * scale), rtol=1e-6)


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


@pytest.mark.torch
def test_the_result_reads_saves_and_draws(tmp_path):
    run = RUNS["torch"]("Adam", 0.1 * np.ones(5), lr=1e-3)
    found = stability(run.objective, run.optimizer, k=2)
    found.save(tmp_path / "kept.npz")
    again = specop.load(tmp_path / "kept.npz")
    assert str(again) == str(found) and again.behaviours == found.behaviours
    assert "of the limit 38000 of Adam" in str(found) and "decays" in str(found)
    pytest.importorskip("matplotlib")
    (line,) = [one for one in found.plot().lines if one.get_linestyle() == "--"]
    np.testing.assert_allclose(line.get_ydata(), 38000, rtol=1e-6)
    assert len(found.plot_steps().lines) == 3


@pytest.mark.torch
def test_next_losses_are_those_of_the_real_optimizer():
    for kind, options in (("SGD", {"momentum": 0.9}), ("AdamW", {"weight_decay": 0.1}), ("RMSprop", {"momentum": 0.5})):
        run = RUNS["torch"](kind, 1e-3 * np.arange(1.0, 6.0), lr=0.01, taken=10**6, **options)
        for _ in range(3):
            run.step()
        found = stability(run.objective, run.optimizer, steps=4)
        losses = [float(run.objective.loss())]
        for _ in range(4):
            run.step()
            losses.append(float(run.objective.loss()))
        # Squared gradients move the second moments by less than 1e-5.
        np.testing.assert_allclose(found.actual, losses, rtol=1e-4)
        np.testing.assert_allclose(found.predicted, found.actual, rtol=1e-9)


@pytest.mark.torch
def test_optimizers_without_a_known_limit_are_refused_by_name():
    import torch

    run = RUNS["torch"]("SGD", np.ones(5), lr=0.1)
    weights = [weight for group in run.optimizer.param_groups for weight in group["params"]]
    objective = run.objective

    class Own(torch.optim.SGD):
        pass

    for optimizer, text in (
        (torch.optim.NAdam(weights), "NAdam"),
        (torch.optim.Adagrad(weights), "Adagrad"),
        (Own(weights, lr=0.1), "Own"),
        (torch.optim.SGD(weights, lr=0.1, maximize=True), "maximize=True"),
        (torch.optim.SGD(weights[:1], lr=0.1), "does not hold 'b'"),
        (torch.optim.Adam(weights), "no second moments yet for 'a', 'b'"),
        ("adam", "got str"),
        (
            torch.optim.SGD([{"params": weights[:1], "momentum": 0.9}, {"params": weights[1:]}], lr=0.1),
            "'a' with momentum 0.9 and 'b' with 0",
        ),
    ):
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stability(objective, optimizer)
    part = objective.restrict("a")
    assert stability(part, torch.optim.SGD(weights[:1], lr=0.1)).ratio < 1
    for options, text in (
        ({"optimizer": run.optimizer, "lr": 0.1}, "brings its own"),
        ({"lr": -1.0}, "lr must be a positive"),
        ({"lr": 0.1, "momentum": 1.0}, "momentum must lie"),
        ({"steps": -1}, "steps must be"),
        ({"k": 9}, "k must be"),
        ({"max_matvecs": 1}, "at least 2, for"),
        ({"max_matvecs": 11, "lr": 0.1}, "at least 12, for"),
    ):
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stability(objective, **options)


@each_framework
def test_a_loss_that_is_not_finite_is_refused(framework):
    objective = objective_of(framework, *quadratic(np.eye(2), at=[np.nan, 1.0]))
    with pytest.raises(specop.errors.NonFiniteError):
        stability(objective, lr=0.1)


@pytest.mark.torch
def test_the_optimizer_and_the_model_stay_as_they_are():
    run = RUNS["torch"]("Adam", np.ones(5), lr=0.1)
    before = repr(run.optimizer.state_dict()), run.place()
    stability(run.objective, run.optimizer)
    assert repr(run.optimizer.state_dict()) == before[0] and (run.place() == before[1]).all()
    assert host(run.objective.theta).tolist() == run.place().tolist()
