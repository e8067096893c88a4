"""stability: limits against iterated optimizers, and what else it says against closed forms."""

import numpy as np
import pytest
import scipy.optimize

import specop
from landscape_cases import FRAMEWORKS, each_framework, functions, host, objective_of, quadratic
from optimizer_cases import MATRIX, MEANS, MOMENTS, SIZES, growth, jax_run, tensorflow_run, torch_run
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


def torch(kind, **options):
    return lambda rate: torch_run(kind, START, lr=rate, **options)


def optax(make, **options):
    return lambda rate: jax_run(lambda module: make(module, rate), START, **options)


def keras(kind, **options):
    return lambda rate: tensorflow_run(kind, START, learning_rate=rate, **options)


ADAM = scaled_largest(adam_denominator(MOMENTS, 0.99))
AMSGRAD = scaled_largest(adam_denominator(1.5 * MOMENTS, 0.99))
CENTRED = MOMENTS - MEANS**2
# (name of the optimizer, its run at a rate, sharpness, limit times the rate)
HELD = {
    "torch": [
        ("SGD", torch("SGD"), LARGEST, 2.0),
        ("SGD", torch("SGD", momentum=0.8), LARGEST, 3.6),
        ("SGD", torch("SGD", momentum=0.8, dampening=0.5), LARGEST, 7.2),
        ("SGD", torch("SGD", dampening=0.5), LARGEST, 2.0),
        ("SGD", torch("SGD", momentum=0.8, nesterov=True), LARGEST, 3.6 / 2.6),
        ("SGD", torch("SGD", momentum=0.8, weight_decay=0.3), LARGEST + 0.3, 3.6),
        ("Adam", torch("Adam", betas=(0.9, 0.99)), ADAM, 38.0),
        ("Adam", torch("Adam", betas=(0.9, 0.99), eps=0.7), scaled_largest(adam_denominator(MOMENTS, 0.99, 0.7)), 38.0),
        ("Adam", torch("Adam", betas=(0.9, 0.99), amsgrad=True), AMSGRAD, 38.0),
        (
            "Adam",
            torch("Adam", betas=(0.9, 0.99), weight_decay=0.4),
            scaled_largest(adam_denominator(MOMENTS, 0.99), 0.4),
            38.0,
        ),
        ("RMSprop", torch("RMSprop", eps=0.2), scaled_largest(np.sqrt(MOMENTS) + 0.2), 2.0),
        ("RMSprop", torch("RMSprop", eps=0.2, momentum=0.7), scaled_largest(np.sqrt(MOMENTS) + 0.2), 3.4),
        (
            "RMSprop",
            torch("RMSprop", centered=True, weight_decay=0.2),
            scaled_largest(np.sqrt(CENTRED) + 1e-8, 0.2),
            2.0,
        ),
    ],
    "jax": [
        ("SGD", optax(lambda module, rate: module.sgd(rate)), LARGEST, 2.0),
        ("SGD", optax(lambda module, rate: module.sgd(rate, momentum=0.8)), LARGEST, 3.6),
        ("SGD", optax(lambda module, rate: module.sgd(rate, momentum=0.8, nesterov=True)), LARGEST, 3.6 / 2.6),
        (
            "SGD",
            optax(lambda module, rate: module.chain(module.add_decayed_weights(0.3), module.sgd(rate, momentum=0.8))),
            LARGEST + 0.3,
            3.6,
        ),
        ("Adam", optax(lambda module, rate: module.adam(rate, b2=0.99), decay=0.99), ADAM, 38.0),
        (
            "Adam",
            optax(lambda module, rate: module.adam(rate, b2=0.99, eps=0.3, eps_root=0.2), decay=0.99),
            scaled_largest(ADAM_MEMORY * (np.sqrt(MOMENTS / (1 - 0.99**7) + 0.2) + 0.3)),
            38.0,
        ),
        (
            "AMSGrad",
            optax(lambda module, rate: module.amsgrad(rate, b2=0.99), decay=0.99),
            scaled_largest(ADAM_MEMORY * np.sqrt(1.5 * MOMENTS / (1 - 0.99**7))),
            38.0,
        ),
        (
            "Adam",
            optax(
                lambda module, rate: module.chain(
                    module.clip_by_global_norm(1.0), module.add_decayed_weights(0.4), module.adam(rate, b2=0.99)
                ),
                decay=0.99,
            ),
            scaled_largest(adam_denominator(MOMENTS, 0.99), 0.4),
            38.0,
        ),
        (
            "Adam",
            optax(
                lambda module, rate: module.inject_hyperparams(module.adam)(learning_rate=lambda count: rate, b2=0.99),
                decay=0.99,
            ),
            ADAM,
            38.0,
        ),
        (
            "RMSprop",
            optax(lambda module, rate: module.rmsprop(rate, decay=0.9, eps=0.2), decay=0.9),
            scaled_largest(np.sqrt(MOMENTS + 0.2)),
            2.0,
        ),
        (
            "RMSprop",
            optax(
                lambda module, rate: module.rmsprop(
                    rate, eps=0.2, eps_in_sqrt=False, momentum=0.7, bias_correction=True, nesterov=True
                ),
                decay=0.9,
            ),
            scaled_largest(np.sqrt(MOMENTS / (1 - 0.9**7)) + 0.2),
            3.4 / 2.4,
        ),
        (
            "centered RMSprop",
            optax(lambda module, rate: module.rmsprop(rate, centered=True, momentum=0.7), decay=0.9),
            scaled_largest(np.sqrt(CENTRED + 1e-8)),
            3.4,
        ),
    ],
    "tensorflow": [
        ("SGD", keras("SGD"), LARGEST, 2.0),
        ("SGD", keras("SGD", momentum=0.8), LARGEST, 3.6),
        ("SGD", keras("SGD", momentum=0.8, nesterov=True), LARGEST, 3.6 / 2.6),
        (
            "Adam",
            keras("Adam", beta_2=0.99, epsilon=0.3, decay=0.99),
            scaled_largest(ADAM_MEMORY * (np.sqrt(MOMENTS) + 0.3) / np.sqrt(1 - 0.99**7)),
            38.0,
        ),
        ("Adam", keras("Adam", beta_2=0.99, epsilon=1e-8, amsgrad=True, decay=0.99), AMSGRAD, 38.0),
        ("RMSprop", keras("RMSprop", epsilon=0.2, decay=0.9), scaled_largest(np.sqrt(MOMENTS + 0.2)), 2.0),
        (
            "RMSprop",
            keras("RMSprop", epsilon=0.2, momentum=0.7, centered=True, decay=0.9),
            scaled_largest(np.sqrt(CENTRED + 0.2)),
            3.4,
        ),
    ],
}
each_optimizer = pytest.mark.parametrize(
    ("framework", "name", "run_at", "sharpness", "limit"),
    [
        pytest.param(
            framework,
            *case,
            marks=[getattr(pytest.mark, framework), pytest.mark.adapter],
            id=f"{framework}-{case[0]}-{number}",
        )
        for framework in FRAMEWORKS
        for number, case in enumerate(HELD[framework])
    ],
)


@each_optimizer
def test_an_optimizer_decays_below_the_limit_and_grows_above(framework, name, run_at, sharpness, limit):
    for factor, grows in ((0.98, False), (1.02, True)):
        rate = factor * limit / sharpness
        run = run_at(rate)
        # What is said is proportional to the rate, and another objective would be compiled for it.
        if framework != "torch" and not grows:
            assert growth(run) < 1
            continue
        found = stability(run.objective, run.optimizer)
        np.testing.assert_allclose(found.sharpness.estimate, sharpness, rtol=1e-5)
        np.testing.assert_allclose(found.limit, limit / rate, rtol=1e-5)
        np.testing.assert_allclose(found.ratio, factor, rtol=1e-5)
        assert found.optimizer == name and found.rate == pytest.approx(rate, rel=1e-5)
        assert found.preconditioned == (name != "SGD")
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
        run = torch_run(kind, START, groups=own, **options)
        found = stability(run.objective, run.optimizer)
        np.testing.assert_allclose(found.ratio, factor, rtol=1e-6)
        assert (growth(run) > 1) == grows
        if own[0]["lr"] != own[1]["lr"]:
            np.testing.assert_allclose(found.limit, 3.8, rtol=1e-12)


def decoupled(framework, decays, scale, rates):
    """A run of AdamW whose two parameters have their own rates and decays."""
    (first, second), (rate, other) = decays, rates
    if framework == "torch":
        groups = [{"lr": one * scale, "weight_decay": decay} for one, decay in zip(rates, decays, strict=True)]
        return torch_run("AdamW", START, groups=groups, betas=(0.9, 0.99))
    if framework == "tensorflow":
        options = {"beta_2": 0.99, "epsilon": 1e-8, "decay": 0.99, "exclude": None if second else 1}
        return tensorflow_run("AdamW", START, learning_rate=scale, weight_decay=first, **options)

    def make(optax):
        if rate != other:
            inner = {
                name: optax.adamw(one * scale, b2=0.99, weight_decay=decay)
                for name, one, decay in zip("ab", rates, decays, strict=True)
            }
            return optax.multi_transform(inner, {"a": "a", "b": "b"})
        return optax.adamw(scale, b2=0.99, weight_decay=first, mask={"a": True, "b": bool(second)})

    return jax_run(make, START, decay=0.99)


@each_framework
@pytest.mark.adapter
@pytest.mark.parametrize(
    ("decays", "rates"), [((0.4, 0.4), (1.0, 1.0)), ((0.5, 0.0), (1.0, 1.0)), ((0.5, 0.1), (1.0, 0.3))]
)
def test_decoupled_weight_decay_lowers_the_limit(framework, decays, rates):
    if framework == "tensorflow" and rates[0] != rates[1]:
        pytest.skip("Keras has one rate")
    P = adam_denominator(MOMENTS, 0.99)

    def ratio(scale):
        """The force over (2 - decay) where a step is turned round, by the definition of AdamW's step."""
        eta, decay = (np.repeat(np.multiply(values, scale), SIZES) for values in (rates, np.multiply(decays, rates)))
        D = np.diag(np.sqrt(eta / P / (2 - decay)))
        return np.linalg.eigvalsh(D @ MATRIX @ D)[-1] * 0.1 / 1.9

    for wanted, grows in ((0.98, False), (1.02, True)):
        scale = scipy.optimize.brentq(lambda scale, goal=wanted: ratio(scale) - goal, 1e-6, 3.9)
        run = decoupled(framework, decays, scale, rates)
        found = stability(run.objective, run.optimizer)
        np.testing.assert_allclose(found.ratio, wanted, rtol=1e-5)
        assert (growth(run) > 1) == grows and found.optimizer == "AdamW"
        if decays[0] == decays[1]:
            np.testing.assert_allclose(found.limit, 1.9 * (2 - scale * decays[0]) / (0.1 * scale), rtol=1e-5)


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
    run = torch_run("Adam", 0.1 * np.ones(5), lr=1e-3)
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
        run = torch_run(kind, 1e-3 * np.arange(1.0, 6.0), lr=0.01, taken=10**6, **options)
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

    run = torch_run("SGD", np.ones(5), lr=0.1)
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


@pytest.mark.jax
def test_transformations_without_a_known_limit_are_refused():
    start = 0.1 * np.arange(1.0, 6.0)
    for make, text in (
        (lambda module: module.nadam(0.1, b2=0.99), "looks ahead, as Nadam does"),
        (lambda module: module.adamax(0.1, b2=0.99), "no means of squared gradients"),
        (lambda module: module.yogi(0.1, b2=0.99), "no means of squared gradients"),
        (lambda module: module.radam(0.1, b2=0.99), "corrects the bias"),
        (lambda module: module.lamb(0.1, b2=0.99), "not proportional"),
        (lambda module: module.lion(0.1), "ScaleByLionState"),
        (lambda module: module.adabelief(0.1), "ScaleByBeliefState"),
        (lambda module: module.sign_sgd(0.1), "not proportional to gradients"),
        (lambda module: module.sgd(-0.1), "down the gradient"),
        (lambda module: module.chain(module.clip_by_global_norm(1e-3), module.sgd(0.1)), "clips the gradient"),
        (lambda module: module.chain(module.clip(1e-3), module.adam(0.1, b2=0.99)), "clips the gradient"),
        (lambda module: module.chain(module.sgd(0.1, momentum=0.9), module.clip(1e-6)), "clips its steps"),
        (
            lambda module: module.multi_transform(
                {"a": module.sgd(0.1), "b": module.adam(0.1, b2=0.99)}, {"a": "a", "b": "b"}
            ),
            "another rule 'a'",
        ),
        (
            lambda module: module.chain(module.adam(0.1, b2=0.99), module.trace(0.9)),
            "holds ScaleByAdamState and TraceState",
        ),
    ):
        run = jax_run(make, start, decay=0.99)
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stability(run.objective, run.optimizer)
    transformation, state = run.optimizer
    for optimizer, text in ((transformation, "the pair"), (state, "the pair"), ("adam", "the pair")):
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stability(run.objective, optimizer)
    adam = pytest.importorskip("optax").adam(0.1)
    with pytest.raises(specop.errors.InvalidInputError, match="no second moments yet for 'a', 'b'"):
        stability(run.objective, (adam, adam.init(run.params)))
    with pytest.raises(specop.errors.InvalidInputError, match="does not hold 'b'"):
        stability(run.objective, (adam, adam.init({"a": run.params["a"]})))


@pytest.mark.jax
@pytest.mark.parametrize("kind", ["flax", "equinox"])
def test_modules_of_jax_with_their_own_optimizers(kind):
    import jax
    import jax.numpy as jnp
    import optax as library

    x, y = (jnp.array(np.random.default_rng(seed).normal(size=(12, width))) for seed, width in ((0, 3), (1, 2)))

    def criterion(outputs, y):
        return ((outputs - y) ** 2).mean()

    rate = library.linear_schedule(0.1, 0.0, 10)
    if kind == "flax":
        nnx = pytest.importorskip("flax.nnx")
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        optimizer = nnx.Optimizer(model, library.adamw(rate, weight_decay=0.0), wrt=nnx.Param)
        for _ in range(3):
            optimizer.update(model, nnx.grad(lambda model: criterion(model(x), y))(model))
        objective = specop.objective(model, criterion, (x, y))
        second = nnx.as_pure(optimizer.opt_state)[0].nu
        moments = np.concatenate([np.ravel(second[name]) for name in objective.names])
    else:
        equinox = pytest.importorskip("equinox")
        model = equinox.nn.Linear(3, 2, key=jax.random.key(0), dtype=jnp.float64)
        transformation = library.adam(rate)
        state = transformation.init(equinox.filter(model, equinox.is_inexact_array))
        for _ in range(3):
            slopes = equinox.filter_grad(lambda model: criterion(jax.vmap(model)(x), y))(model)
            updates, state = transformation.update(slopes, state, model)
            model = equinox.apply_updates(model, updates)
        optimizer = (transformation, state)
        objective = specop.objective(
            lambda model, batch: criterion(jax.vmap(model)(batch[0]), batch[1]), params=model, data=(x, y)
        )
        moments = np.concatenate([np.ravel(getattr(state[0].nu, name)) for name in objective.names])
    found = stability(objective, optimizer)
    P = (1 - 0.9**3) * (np.sqrt(moments / (1 - 0.999**3)) + 1e-8)
    H = host(objective.hessian().to_dense())
    largest = np.linalg.eigvalsh(H / np.sqrt(np.outer(P, P)))[-1]
    np.testing.assert_allclose(found.sharpness.estimate, largest, rtol=1e-4)
    np.testing.assert_allclose(found.limit, 38 / 0.07, rtol=1e-4)
    assert found.optimizer == "Adam"


@pytest.mark.tensorflow
def test_a_compiled_keras_model_and_what_is_refused_of_keras():
    import keras as library
    import tensorflow as tf

    library.utils.set_random_seed(0)
    x, y = (np.random.default_rng(seed).normal(size=(12, width)).astype("float32") for seed, width in ((0, 3), (1, 2)))

    def trained(optimizer, **options):
        model = library.Sequential([library.Input((3,)), library.layers.Dense(2, **options)])
        model.compile(optimizer=optimizer, loss="mse")
        model.fit(x, y, batch_size=12, epochs=3, verbose=0)
        data = tf.constant(x), tf.constant(y)
        return model.trainable_variables, specop.objective(model, library.losses.MeanSquaredError(), data)

    schedule = library.optimizers.schedules.PolynomialDecay(0.1, 10, end_learning_rate=0.0)
    adam = library.optimizers.AdamW(schedule, weight_decay=0.5)
    adam.exclude_from_weight_decay(var_names=["bias"])
    variables, objective = trained(adam)
    found = stability(objective, adam)
    P = np.concatenate([np.ravel(one.numpy()) for one in adam._velocities])
    P = (1 - 0.9**3) / np.sqrt(1 - 0.999**3) * (np.sqrt(P) + 1e-7)
    decay = 0.07 * 0.5 * np.repeat([1.0, 0.0], [6, 2])
    D = np.diag(1 / np.sqrt(P * (1 - decay / 2)))
    largest = np.linalg.eigvalsh(D @ host(objective.hessian().to_dense()) @ D)[-1]
    np.testing.assert_allclose(found.sharpness.estimate, largest, rtol=1e-3)
    np.testing.assert_allclose(found.limit, 38 / 0.07, rtol=1e-4)

    sgd = library.optimizers.SGD(0.1, clipnorm=1e3)
    sgd.build(variables)
    assert stability(objective, sgd).limit == pytest.approx(20)
    part = library.optimizers.SGD(0.1)
    part.build(variables[:1])
    for optimizer, text in (
        (library.optimizers.Nadam(0.1), "Nadam"),
        (library.optimizers.Adam(0.1), "no second moments yet"),
        (library.optimizers.SGD(0.1, clipnorm=1e-3), "clipnorm=0.001 where it has"),
        (library.optimizers.SGD(0.1, global_clipnorm=1e-3), "global_clipnorm=0.001"),
        (library.optimizers.SGD(0.1, clipvalue=1e-3), "clipvalue=0.001"),
        (library.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=5), "ema_overwrite_frequency"),
        (part, "does not hold"),
        ("sgd", "got str"),
    ):
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stability(objective, optimizer)
    bound = library.optimizers.SGD(0.1)
    with pytest.raises(specop.errors.InvalidInputError, match="has a constraint"):
        stability(trained(bound, kernel_constraint=library.constraints.NonNeg())[1], bound)


@each_framework
def test_a_loss_that_is_not_finite_is_refused(framework):
    objective = objective_of(framework, *quadratic(np.eye(2), at=[np.nan, 1.0]))
    with pytest.raises(specop.errors.NonFiniteError):
        stability(objective, lr=0.1)


@pytest.mark.torch
def test_parameters_that_the_optimizer_never_saw_a_slope_of_are_named():
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    x, y = torch.randn(40, 4), torch.randn(40, 2)
    criterion = torch.nn.functional.mse_loss
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    # In training mode batch normalization takes the bias before it away; in evaluation mode the loss has a slope in it.
    objective = specop.objective(model.eval(), criterion, (x, y))
    found = stability(objective, optimizer, condition_matvecs=0, steps=0)
    assert "for '0.bias': it was trained on another one" in found.notes and "'0.bias'" in str(found)
    rest = objective.restrict(["0.weight", "1", "3"])
    assert not stability(rest, optimizer, condition_matvecs=0, steps=0).notes


@pytest.mark.torch
def test_the_optimizer_and_the_model_stay_as_they_are():
    run = torch_run("Adam", np.ones(5), lr=0.1)
    before = repr(run.optimizer.state_dict()), run.place()
    stability(run.objective, run.optimizer)
    assert repr(run.optimizer.state_dict()) == before[0] and (run.place() == before[1]).all()
    assert host(run.objective.theta).tolist() == run.place().tolist()
