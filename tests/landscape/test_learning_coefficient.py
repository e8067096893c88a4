"""Learning coefficients: known ones between the limits, chains beside quadrature, and refusals by name."""

import importlib

import numpy as np
import pytest

import specop
from landscape_cases import FRAMEWORKS, each_framework, functions, host, objective_of
from specop.arrays.backend import backend_of
from specop.arrays.processes import ALONE
from specop.krylov.task import Task
from specop.landscape._kinks import kink
from specop.landscape._langevin import Target, walk

learning_coefficient = specop.landscape.learning_coefficient
REDUCED_RANK = {(5, 3, 5): 6.5, (5, 4, 5): 8.0, (4, 3, 8): 6.0, (8, 3, 4): 6.0, (3, 8, 4): 6.0}


def of_two(framework, loss, at=(0.0, 0.0)):
    """Return the objective of a function of x and y."""

    def whole(xp, params, batch):
        return loss(params["w"][0], params["w"][1]) + 0.0 * xp.sum(batch[0])

    return objective_of(framework, whole, {"w": np.array(at)})


def matmul(framework):
    return importlib.import_module("tensorflow").matmul if framework == "tensorflow" else lambda a, b: a @ b


def regression(framework, sizes, first, second, target, count=40):
    """Return squared errors of a product of two matrices, summed over outputs."""
    x, product = np.random.default_rng(0).normal(size=(count, sizes[0])), matmul(framework)

    def loss(xp, params, batch):
        return xp.sum((product(product(batch[0], params["a"]), params["b"]) - batch[1]) ** 2) / batch[0].shape[0]

    return objective_of(framework, loss, {"a": first, "b": second}, (x, x @ target))


@each_framework
def test_reduced_rank_regression_lies_between_the_limits(framework):
    # Compiling anew for each size is all that the others would add.
    for sizes, right in list(REDUCED_RANK.items())[: None if framework == "torch" else 1]:
        n, hidden, m = sizes
        zeros = np.zeros((n, hidden)), np.zeros((hidden, m))
        found = learning_coefficient(regression(framework, sizes, *zeros, np.zeros((n, m))))
        assert found.lower == 0.0
        assert found.upper == hidden * (n + m) / 4
        assert found.lower <= right <= found.upper


@pytest.mark.torch
def test_a_first_factor_of_full_rank_sees_half_of_the_inputs_times_hidden_units():
    pytest.importorskip("torch")
    # lambda = H N / 2 there, with the second factor zero: H of rank H N for M = N outputs of H = 3 hidden units.
    first = np.random.default_rng(1).normal(size=(5, 3))
    found = learning_coefficient(regression("torch", (5, 3, 5), first, np.zeros((3, 5)), np.zeros((5, 5))))
    assert found.rank.estimate == 15
    assert found.lower <= 3 * 5 / 2 <= found.upper


@pytest.mark.torch
def test_a_deep_linear_teacher_has_the_known_rank():
    pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(3, 5))
    found = learning_coefficient(regression("torch", (5, 3, 5), first, second, first @ second))
    # A truth of rank 3: the formula's first case, (H M - H t + N t) / 2 with H = t = 3, is the lower limit itself.
    assert found.rank.interval == (21.0, 21.0)
    assert (found.lower, found.upper) == (10.5, 12.75)
    assert "zero to rounding" in found.condition


FUNCTIONS = {
    "cross": (lambda x, y: (x * y) ** 2, (0.0, 0.0), 0.5, (0.0, 0.5)),
    "arm": (lambda x, y: (x * y) ** 2, (1.0, 0.0), 0.5, (0.5, 0.75)),
    "powers": (lambda x, y: (x**3 * y**2) ** 2, (0.0, 0.0), 1 / 6, (0.0, 0.5)),
    "quartic": (lambda x, y: x**2 + y**4, (0.0, 0.0), 0.75, (0.5, 0.75)),
    "regular": (lambda x, y: 3.0 + x**2 + y**2, (0.0, 0.0), 1.0, (1.0, 1.0)),
    "rosenbrock": (lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, (1.0, 1.0), 1.0, (1.0, 1.0)),
    # Regular, though barely: 1e-9 is not zero.
    "barely regular": (lambda x, y: x**2 + 1e-9 * y**2, (0.0, 0.0), 1.0, (0.5, 1.0)),
}


@pytest.mark.parametrize(
    ("framework", "name"),
    [(one, name) for one in FRAMEWORKS for name in list(FUNCTIONS)[: None if one == "torch" else 2]],
)
def test_functions_of_two_variables(framework, name):
    loss, at, right, limits = FUNCTIONS[name]
    found = learning_coefficient(of_two(framework, loss, at))
    assert (found.lower, found.upper) == limits
    assert found.lower <= right <= found.upper


@pytest.mark.torch
def test_the_upper_limit_depends_on_what_is_said_of_small_eigenvalues():
    pytest.importorskip("torch")
    objective = of_two("torch", lambda x, y: x**2 + 1e-9 * y**2)
    assert "may be small and not zero" in learning_coefficient(objective).condition
    told = learning_coefficient(objective, threshold=1e-6)
    assert (told.lower, told.upper) == (0.5, 0.75)
    assert "threshold=1e-06 are exactly zero" in told.condition


def network(framework, activation, seed=0, count=60):
    """Return the squared error of a teacher on itself: zero, a minimum."""
    rng, product = np.random.default_rng(seed), matmul(framework)
    params = {"a": rng.normal(size=(4, 6)), "b": rng.normal(size=(6, 2))}
    x = rng.normal(size=(count, 4))

    def outputs(xp, params, inputs):
        return product(getattr(xp, activation)(product(inputs, params["a"])), params["b"])

    xp = functions(framework)
    y = host(outputs(xp, {name: xp.array(value) for name, value in params.items()}, xp.array(x)))
    return objective_of(
        framework, lambda xp, p, batch: xp.mean((outputs(xp, p, batch[0]) - batch[1]) ** 2), params, (x, y)
    )


@each_framework
def test_kinks_are_refused_and_smooth_units_are_not(framework):
    assert learning_coefficient(network(framework, "tanh")).lower == 18.0
    for method in ("bracket", "sgld"):
        with pytest.raises(specop.errors.DomainError, match="not analytic"):
            learning_coefficient(network(framework, "relu"), method, steps=20)


@pytest.mark.torch
@pytest.mark.parametrize(("dtype", "count"), [("float64", 5), ("float64", 200), ("float32", 200)])
@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "Tanh", "GELU", "Softplus"])
def test_kinks_are_seen_in_trained_networks(name, dtype, count):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    unit = getattr(torch.nn, name)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), unit(), torch.nn.Linear(16, 16), unit(), torch.nn.Linear(16, 3))
    net = net.to(getattr(torch, dtype))
    x, y = torch.randn(count, 8).to(getattr(torch, dtype)), torch.randn(count, 3).to(getattr(torch, dtype))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    objective = specop.objective(net, torch.nn.functional.mse_loss, (x, y))
    theta = objective.theta
    with Task("kink", backend_of(theta), ALONE) as task:
        found = kink(task, objective, theta, objective.gradient())
    assert np.isfinite(found) == (name in ("ReLU", "LeakyReLU"))


class Gradient:
    """The gradient of a smooth loss as the look for kinks asks for it, in NumPy."""

    def __init__(self, gradient):
        self.gradient = gradient


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("gradient", "at"),
    [
        (lambda w: 4 * (w @ w - 1) * w, (1.0, 0.0, 0.0)),
        (lambda w: 4 * (w @ w - 1) * w, (0.6, 0.8, 0.0)),
        (lambda w: 2 * (w[0] * w[1] - 1) * w[::-1], (1.0, 1.0)),
        (lambda w: 2 * (np.exp(w).sum(dtype=w.dtype) - 3) * np.exp(w), (0.0, 0.0, 0.0)),
    ],
    ids=["axis", "sphere", "product", "exponentials"],
)
def test_rounding_is_no_kink(gradient, at, dtype):
    """Numbers near 1 are rounded to steps that few differences show."""
    point = np.array(at, dtype=dtype)
    for seed in range(20):
        with Task("kink", backend_of(point), ALONE, seed=seed) as task:
            assert kink(task, Gradient(gradient), point, gradient(point)) == np.inf, seed


@each_framework
@pytest.mark.parametrize(
    ("loss", "at", "text"),
    [
        (lambda x, y: x**2 + y**2, (1e-3, 0.0), "its gradient has the norm 0.002"),
        (lambda x, y: x**2 - y**2, (0.0, 0.0), "1 or more negative eigenvalues"),
        (lambda x, y: x**3 - 3 * x * y**2, (0.0, 0.0), "the loss falls"),
        (lambda x, y: 1.0 + x**2 - y**4, (0.0, 0.0), "the loss falls"),
    ],
    ids=["gradient", "saddle", "monkey saddle", "quartic maximum"],
)
def test_points_that_are_no_minimum_are_refused(framework, loss, at, text):
    for method in ("bracket", "sgld"):
        with pytest.raises(specop.errors.DomainError, match=f"no minimum: .*{text}"):
            learning_coefficient(of_two(framework, loss, at), method, samples=100, steps=20)


def expectation(loss, m, beta, gamma, reach):
    """Return m beta E[K] by quadrature on a square."""
    x = np.linspace(-reach, reach, 3001)
    K = loss(x[:, None], x[None, :])
    weights = np.exp(-m * beta * K - gamma * (x[:, None] ** 2 + x[None, :] ** 2) / 2)
    return m * beta * np.sum(K * weights) / np.sum(weights)


class Function:
    """A loss of two parameters as chains call it, in NumPy: thousands of steps in a second."""

    def __init__(self, loss, gradient):
        self.loss, self.gradient = loss, gradient

    def loss_and_gradient(self, at):
        return np.asarray(self.loss(*at)), np.array(self.gradient(*at))


@pytest.mark.parametrize(
    ("function", "top"),
    [
        (Function(lambda x, y: (x * y) ** 2, lambda x, y: (2 * x * y**2, 2 * y * x**2)), 0.0),
        (Function(lambda x, y: 0.5 * x**2 + 0.25 * y**4, lambda x, y: (x, y**3)), 1.0),
    ],
    ids=["cross", "quartic"],
)
@pytest.mark.parametrize(("m", "gamma"), [(1000, 30.0), (1000, 3.0), (100, 10.0)])
@pytest.mark.parametrize(
    ("chains", "steps", "off"), [(4, 2500, 0.2), pytest.param(60, 5000, 0.05, marks=pytest.mark.slow)]
)
def test_chains_agree_with_quadrature(function, top, m, gamma, chains, steps, off):
    """Four chains have a standard error of up to 6 %, and sixty one of 1 %."""
    weight = m / np.log(m)
    with Task("chains", backend_of(np.zeros(2)), ALONE) as task:
        target = Target(function, np.zeros(2), weight, gamma)
        runs = [walk(task, target, 1.0 / (weight * top + gamma), steps, steps // 5, i) for i in range(chains)]
    means = weight * np.array([one.rises.mean() for one in runs])
    right = expectation(function.loss, m, 1 / np.log(m), gamma, 9 / gamma**0.5)
    assert means.mean() == pytest.approx(right, rel=off)


@each_framework
def test_chains_are_the_same_in_every_framework(framework):
    with pytest.warns(specop.errors.ConvergenceWarning, match="raise steps=20"):
        found = learning_coefficient(
            of_two(framework, lambda x, y: 0.5 * x**2 + 2.0 * y**2), "sgld", samples=100, chains=2, steps=20
        )
    x, y = _by_hand(np.array([1.0, 4.0]), 100 / np.log(100), 1.0, steps=20, warm_up=4, seed=0)
    np.testing.assert_allclose(found.rises, np.stack([x, y]), rtol=1e-6)
    assert found.m == 100
    assert found.beta == pytest.approx(1 / np.log(100))


def _by_hand(H, weight, gamma, steps, warm_up, seed):
    """Return what two chains see on a quadratic, with the textbook's ratio of proposals."""
    from specop.arrays import probes
    from specop.arrays.layout import Layout
    from specop.landscape._langevin import _DRAWS, _OFTEN, _PROBE, _SHORT

    layout, numpy = Layout(2, np.dtype(np.float64), "cpu"), backend_of(np.zeros(2))
    longest, chains = 1.0 / (weight * H.max() + gamma), []
    for number in range(2):
        rng, w, seen = np.random.Generator(np.random.Philox(key=[seed, number])), np.zeros(2), []

        def potential(w):
            return weight * np.sum(H * w**2) / 2 + gamma * w @ w / 2

        def drifted(w, step):
            return w - step / 2 * (weight * H + gamma) * w

        for turn in range(warm_up + steps):
            step = longest * (1.0 if rng.random() < _OFTEN else _SHORT)
            v = drifted(w, step) + step**0.5 * probes.normal(numpy, layout, seed, _PROBE + number * _DRAWS + turn)
            back, forth = (np.sum((a - drifted(b, step)) ** 2) / (2 * step) for a, b in ((w, v), (v, w)))
            if rng.random() < np.exp(min(0.0, potential(w) - potential(v) - back + forth)):
                w = v
            if turn >= warm_up:
                seen.append(weight * np.sum(H * w**2) / 2)
        chains.append(seen)
    return chains


@pytest.mark.torch
def test_wrong_arguments_are_named_and_results_are_kept(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    objective, error = of_two("torch", lambda x, y: x**2 + y**2), specop.errors.InvalidInputError
    for arguments, text in [
        ({"method": "volume"}, "method must be one of bracket, sgld"),
        ({"method": "sgld"}, "samples=1: beta"),
        ({"rtol": float("nan")}, "rtol must be a finite number >= 0, got nan"),
        ({"rtol": -1.0}, "rtol must be a finite number >= 0, got -1"),
        ({"method": "sgld", "samples": 100, "gamma": 0.0}, "gamma must be a positive number"),
        ({"method": "sgld", "samples": 100, "chains": 1}, "2 chains or more"),
        ({"method": "sgld", "samples": 100, "threshold": 1e-3}, "threshold= and max_matvecs= belong"),
    ]:
        with pytest.raises(error, match=text):
            learning_coefficient(objective, **arguments)
    with pytest.raises(specop.errors.NonFiniteError):
        learning_coefficient(objective, theta=torch.tensor([float("nan"), 0.0], dtype=torch.float64))
    bracket = learning_coefficient(objective)
    bracket.save(tmp_path / "bracket.npz")
    assert specop.load(tmp_path / "bracket.npz").rank == bracket.rank
    assert "learning coefficient 1, where a regular minimum of 2 parameters has 1" in str(bracket)
    chains = learning_coefficient(objective, "sgld", samples=50, gamma=20.0, chains=2, steps=150)
    chains.save(tmp_path / "chains.npz")
    assert specop.load(tmp_path / "chains.npz").looser == chains.looser
    assert "2 chains of 150 steps on all data" in str(chains)
    ax = chains.plot()
    assert ax.get_xlabel() == "step"
    ax.figure.clf()
