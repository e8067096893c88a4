"""stability: limits against iterated optimizers."""

import numpy as np
import pytest
import scipy.optimize

from landscape_cases import FRAMEWORKS, each_framework
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
