"""critical_point: minima, saddles, plateaus and degenerate points, and the numbers that tell them apart."""

import numpy as np
import pytest
import scipy.optimize

import specop
from landscape_cases import FRAMEWORKS, each_framework, host, objective_of, quadratic, small_cnn
from specop.errors import ConvergenceWarning, InvalidInputError, NonFiniteError
from specop.landscape import critical_point

rng = np.random.default_rng(0)
ROTATION = np.linalg.qr(rng.normal(size=(6, 6)))[0]
INPUTS = np.linalg.qr(rng.normal(size=(40, 5)))[0] * 40**0.5
FACTORS = rng.normal(size=(5, 3)), rng.normal(size=(3, 5))
TARGETS = INPUTS @ FACTORS[0] @ FACTORS[1] + rng.normal(size=(40, 5))


def rosenbrock(xp, params, batch):
    w = params["w"]
    return xp.sum(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2) + 0 * xp.sum(batch[0])


def monkey(xp, params, batch):
    x, y = params["w"][0], params["w"][1]
    return 0.25 + x**3 - 3 * x * y**2 + 0 * xp.sum(batch[0])


def linear_network(xp, params, batch):
    rest = (batch[0] @ params["a"]) @ params["b"] - batch[1]
    return xp.sum(rest * rest) / 40


def two_units(xp, params, batch):
    x, y = batch
    rest = xp.tanh(x * params["w"]) * params["v"]
    return xp.mean((xp.sum(rest, -1) - y) ** 2)


def diagonal(values, at, floor=0.0):
    def loss(xp, params, batch):
        return floor + 0.5 * xp.sum(xp.array(values) * params["w"] ** 2) + 0 * xp.sum(batch[0])

    return loss, {"w": np.asarray(at, dtype=float)}


def counts(found):
    return tuple(int(part.estimate) for part in (found.negative, found.zero, found.positive))


def is_counted(found):
    parts = (found.negative, found.zero, found.positive)
    return all(part.interval == (part.estimate,) * 2 and part.standard_error == 0 for part in parts)


def signs(objective):
    found = specop.inertia(objective.hessian())
    return counts(found)


@pytest.mark.parametrize(
    ("framework", "values", "kind"),
    [
        *((framework, [4, 3, 2, 1, 0.5, 1e-6], "minimum") for framework in FRAMEWORKS),
        *((framework, [4, 3, -2, -2, -2, 0], "saddle") for framework in FRAMEWORKS),
        ("torch", [4, 3, 2, 1, 0, 0], "degenerate"),
        ("torch", [4, 3, 2, 1, -1e-6, 0], "saddle"),
        ("torch", [-4, -3, -2, -1, -1, -1], "saddle"),
        ("torch", [0, 0, 0, 0, 0, 0], "plateau"),
    ],
)
def test_quadratics_of_every_signature(framework, values, kind):
    matrix = ROTATION * values @ ROTATION.T
    objective = objective_of(framework, *quadratic((matrix + matrix.T) / 2, at=np.ones(6), minimum=1.0, floor=0.5))
    found = critical_point(objective)
    expected = tuple(int(np.sum(np.sign(values) == sign)) for sign in (-1, 0, 1))
    assert found.kind == kind and counts(found) == expected and is_counted(found)
    for value, end in ((found.smallest, min(values)), (found.largest, max(values))):
        assert value.interval[0] <= end <= value.interval[1]
        np.testing.assert_allclose(value.estimate, end, atol=1e-12)
        assert value.interval[1] - value.interval[0] < 1e-12
    if kind == "saddle":
        direction = host(found.direction)
        np.testing.assert_allclose(np.linalg.norm(direction), 1, rtol=1e-12)
        np.testing.assert_allclose(direction @ matrix @ direction, min(values), atol=1e-12)
        np.testing.assert_allclose(found.drop, -min(values) / 2 * found.distance**2, rtol=1e-6)
        assert not found.turns and found.distance**2 >= 500**2
    else:
        assert found.drop == 0 and found.distance == 0


@each_framework
def test_the_decrement_is_taken_sign_by_sign(framework):
    values, away = np.array([4.0, 1.0, 0.25, -1.0, -2.0, 0.0]), np.array([1.0, 2.0, 2.0, 1.0, 2.0, 3.0])
    matrix = ROTATION * values @ ROTATION.T
    place = 1.0 + ROTATION @ away
    found = critical_point(objective_of(framework, *quadratic((matrix + matrix.T) / 2, place, minimum=1.0, floor=0.5)))
    assert found.kind == "not critical"
    expected = values * away**2
    np.testing.assert_allclose(found.positive_part, expected[expected > 0].sum(), rtol=1e-10)
    np.testing.assert_allclose(found.negative_part, expected[expected < 0].sum(), rtol=1e-10)
    np.testing.assert_allclose(found.decrement, np.abs(expected).sum(), rtol=1e-10)
    np.testing.assert_allclose(found.gradient_norm, np.linalg.norm(values * away), rtol=1e-10)
    assert found.outside < 1e-12


def test_half_of_the_decrement_is_held_against_the_loss():
    def kind(away, **options):
        loss, params = quadratic(np.diag([4.0, 1.0]), at=[1.0 + away, 1.0], minimum=1.0, floor=0.5)
        return critical_point(objective_of("torch", loss, params), **options).kind

    # Half of the decrement is 2 away^2.
    assert kind(0.9 * (0.5e-3 / 2) ** 0.5) == "minimum"
    assert kind(1.1 * (0.5e-3 / 2) ** 0.5) == "not critical"
    assert kind(0.1) == "not critical" and kind(0.1, rtol=0.1) == "minimum" and kind(0.1, atol=0.03) == "minimum"


def test_a_gradient_outside_of_the_span_is_no_critical_point():
    def slope(xp, params, batch):
        return 1.0 + xp.sum(params["w"]) ** 2 + 0.1 * (params["w"][0] - params["w"][1]) + 0 * xp.sum(batch[0])

    found = critical_point(objective_of("torch", slope, {"w": np.zeros(2)}))
    assert found.kind == "not critical" and found.decrement < 1e-20
    np.testing.assert_allclose(found.outside, 0.1 * 2**0.5, rtol=1e-10)


@each_framework
def test_rosenbrock(framework):
    found = critical_point(objective_of(framework, rosenbrock, {"w": np.ones(2)}))
    assert found.kind == "minimum" and counts(found) == (0, 0, 2)
    np.testing.assert_allclose([found.smallest.estimate, found.largest.estimate], [0.399361, 1001.60064], rtol=1e-6)
    found = critical_point(objective_of(framework, rosenbrock, {"w": np.ones(10)}))
    assert found.kind == "minimum"
    np.testing.assert_allclose([found.smallest.estimate, found.largest.estimate], [0.498752, 1762.84088], rtol=1e-6)


@each_framework
def test_a_monkey_saddle_is_no_minimum(framework):
    objective = objective_of(framework, monkey, {"w": np.zeros(2)})
    found = critical_point(objective)
    assert found.kind == "degenerate" and counts(found) == (0, 2, 0) and signs(objective) == (0, 2, 0)
    # Its third derivative leads down in every direction but three lines.
    assert found.drop > 1 and "the loss falls by" in str(found)


@each_framework
def test_a_valley_of_fourth_order_does_not_fall(framework):
    def valley(xp, params, batch):
        return params["w"][0] ** 2 + params["w"][1] ** 4 + 0 * xp.sum(batch[0])

    found = critical_point(objective_of(framework, valley, {"w": np.zeros(2)}))
    assert found.kind == "degenerate" and counts(found) == (0, 1, 1) and found.drop == 0


@each_framework
def test_a_linear_network_at_its_minimum_is_degenerate_with_the_known_rank(framework):
    U, s, V = np.linalg.svd(INPUTS.T @ TARGETS / 40)
    for data in ((INPUTS, TARGETS), (INPUTS, INPUTS @ (U[:, :3] * s[:3]) @ V[:3])):
        objective = objective_of(framework, linear_network, {"a": U[:, :3] * s[:3], "b": V[:3]}, data)
        found = critical_point(objective)
        assert found.kind == "degenerate" and counts(found) == (0, 9, 21) and is_counted(found) and found.drop == 0
        assert signs(objective) == (0, 9, 21)
        assert -1e-10 < found.smallest.interval[0] < 0


@pytest.mark.parametrize("away", [1e-9, 1e-7, 1e-5])
def test_a_point_near_a_degenerate_minimum_has_the_same_rank(away):
    U, s, V = np.linalg.svd(INPUTS.T @ TARGETS / 40)
    noise = np.random.default_rng(4)
    params = {"a": U[:, :3] * s[:3], "b": V[:3]}
    params = {name: values + away * noise.normal(size=values.shape) for name, values in params.items()}
    found = critical_point(objective_of("torch", linear_network, params, (INPUTS, TARGETS)))
    # Zero eigenvalues of the minimum are not zero here, and some are negative by more than rounding.
    assert found.smallest.interval[1] < 0 and abs(found.smallest.estimate) < 20 * away
    assert found.kind == "degenerate" and counts(found) == (0, 9, 21) and found.drop < 1e-6


@each_framework
def test_a_linear_network_has_saddles(framework):
    U, s, V = np.linalg.svd(INPUTS.T @ TARGETS / 40)
    zero = {"a": np.zeros((5, 3)), "b": np.zeros((3, 5))}
    objective = objective_of(framework, linear_network, zero, (INPUTS, TARGETS))
    found = critical_point(objective)
    # Blocks beside the diagonal alone: each singular value of the correlation, once for each hidden unit and sign.
    assert found.kind == "saddle" and counts(found) == signs(objective) == (15, 0, 15)
    np.testing.assert_allclose([found.smallest.estimate, found.largest.estimate], [-2 * s[0], 2 * s[0]], rtol=1e-10)
    # Along it a = b = t / sqrt(2) for one unit: the loss falls until t^2 / 2 = s, by s^2.
    np.testing.assert_allclose(found.drop, s[0] ** 2, rtol=1e-4)
    np.testing.assert_allclose(abs(found.distance), (2 * s[0]) ** 0.5, rtol=1e-2)
    assert found.turns

    other = {"a": U[:, [0, 1, 3]] * s[[0, 1, 3]], "b": V[[0, 1, 3]]}
    objective = objective_of(framework, linear_network, other, (INPUTS, TARGETS))
    found = critical_point(objective)
    assert found.kind == "saddle" and counts(found) == signs(objective) and found.negative.estimate == 1


def symmetric_saddle():
    """Return two hidden units that share what one would be at its best, the data, and the Hessian there."""
    x = np.linspace(-2, 2, 30)
    y = np.tanh(3 * x) + x

    def residuals(p):
        return p[1] * np.tanh(p[0] * x) - y

    w, v = scipy.optimize.least_squares(residuals, [1.0, 3.0], xtol=1e-15, ftol=1e-15, gtol=1e-15).x
    for _ in range(3):
        rows, rest = _derivatives(np.array([w]), np.array([v]), x, y)
        w, v = np.array([w, v]) - np.linalg.solve(_hessian(rows, rest, [w], [v], x), 2 * rows @ rest / len(x))
    rows, rest = _derivatives(np.array([w, w]), np.array([v, v]) / 2, x, y)
    return (w, v), (x[:, None], y), _hessian(rows, rest, [w, w], [v / 2, v / 2], x)


def _derivatives(w, v, x, y):
    t = np.tanh(w[:, None] * x)
    return np.concatenate([v[:, None] * (1 - t**2) * x, t]), v @ t - y


def _hessian(rows, rest, w, v, x):
    hessian = 2 * rows @ rows.T / len(x)
    for i, (wi, vi) in enumerate(zip(w, v, strict=True)):
        t, j = np.tanh(wi * x), len(w) + i
        hessian[i, i] += 2 * np.mean(rest * vi * -2 * t * (1 - t**2) * x**2)
        hessian[i, j] += 2 * np.mean(rest * (1 - t**2) * x)
        hessian[j, i] = hessian[i, j]
    return hessian


@each_framework
def test_two_hidden_units_at_their_symmetric_saddle(framework):
    (w, v), data, hessian = symmetric_saddle()
    values = np.linalg.eigvalsh(hessian)
    assert values[0] < -1e-3 and abs(values[1]) < 1e-12 and values[2] > 1e-3
    objective = objective_of(framework, two_units, {"w": np.array([w, w]), "v": np.array([v, v]) / 2}, data)
    found = critical_point(objective)
    assert found.kind == "saddle" and counts(found) == signs(objective) == (1, 1, 2)
    np.testing.assert_allclose(found.smallest.estimate, values[0], rtol=1e-8)
    # Apart in w, and nowhere else.
    direction = np.abs(host(found.direction)).reshape(2, 2)
    slot = int(np.argmax(direction.sum(axis=1)))
    np.testing.assert_allclose(direction[slot], 0.5**0.5, rtol=1e-6)
    assert 0 < found.drop < found.loss and found.turns
    # Further along the line of its copies the other sign takes over: no way down by second derivatives.
    other = {"w": np.array([w, w]), "v": np.array([1.5 * v, -0.5 * v])}
    found = critical_point(objective_of(framework, two_units, other, data))
    assert found.kind == "degenerate" and counts(found) == (0, 1, 3)


@each_framework
def test_saturated_units_are_a_plateau(framework):
    def saturated(xp, params, batch):
        return 1.0 + xp.mean((xp.tanh(xp.sum(batch[0] * params["w"], -1) + params["b"][0]) + 1.0) ** 2) / 4

    x = np.random.default_rng(1).uniform(0.5, 1.5, size=(20, 3))
    objective = objective_of(framework, saturated, {"w": np.full(3, 3.0), "b": np.full(1, 2.0)}, (x,))
    found = critical_point(objective)
    assert 0 < found.gradient_norm < 1e-4 and found.kind == "plateau"


def test_dead_units_have_exact_zeros():
    def dead(xp, params, batch):
        return xp.mean((xp.sum(xp.relu(batch[0] @ params["w"] + params["b"]) * params["v"], -1) - batch[1]) ** 2)

    x = np.random.default_rng(1).uniform(0, 1, size=(30, 2))
    params = {"w": np.array([[1.0, 0.5], [0.7, 0.3]]), "b": np.array([0.1, -9.0]), "v": np.array([2.0, 1.0])}
    y = 2 * np.maximum(x @ [1.0, 0.7] + 0.1, 0)
    found = critical_point(objective_of("torch", dead, params, (x, y)))
    # The live unit has four parameters, one of which its scale makes redundant; of the other unit none counts.
    assert found.kind == "degenerate" and counts(found) == (0, 5, 3)


@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_a_large_spectrum(seed):
    values = np.concatenate([np.linspace(1.0, 2.0, 1290), [5.0, 9.0, 10.0]])
    found = critical_point(objective_of("torch", *diagonal(values, np.zeros(1293))), max_matvecs=300, seed=seed)
    assert found.kind == "minimum" and found.matvecs < 150 and found.method == "quadrature"
    assert counts(found) == (0, 0, 1293)
    assert found.smallest.interval[0] <= 1.0 <= found.smallest.interval[1] + 1e-12
    assert found.largest.interval[0] <= 10.0 + 1e-12 and found.largest.estimate > 9.99
    assert found.resolution <= 1e-2

    values[:3] = -1.0, -0.5, -0.5
    found = critical_point(objective_of("torch", *diagonal(values, np.zeros(1293), 1.0)), max_matvecs=300, seed=seed)
    assert found.kind == "saddle" and found.smallest.estimate == pytest.approx(-1.0, abs=1e-2)
    # Copies are counted.
    assert found.negative.interval == (3, 3) and found.zero.interval[0] == 0
    direction = host(found.direction)
    assert values @ direction**2 == pytest.approx(found.smallest.estimate, abs=1e-9)


@pytest.mark.parametrize("copies", [1, 4, 9])
def test_a_few_negative_eigenvalues_of_a_large_matrix_are_counted(copies):
    # Beside a bulk on both sides of zero, whose negative part is too small to count.
    values = np.concatenate(
        [np.random.default_rng(3).exponential(0.01, 1480) - 1e-3, [3.0, 4.0, 6.0], [-2.0] * copies, [-0.2] * copies]
    )
    objective = objective_of("torch", *diagonal(values, np.zeros(len(values)), 1.0))
    found = critical_point(objective, max_matvecs=300)
    assert found.negative.interval == (2 * copies, 2 * copies) and found.negative.standard_error == 0
    assert found.threshold == pytest.approx(6e-3, rel=1e-3) and found.matvecs < 200
    low, high = found.zero.interval
    assert low <= np.sum(np.abs(values) <= found.threshold) <= high


def test_many_negative_eigenvalues_have_an_interval():
    values = np.random.default_rng(2).normal(size=1500)
    found = critical_point(objective_of("torch", *diagonal(values, np.zeros(1500), 1.0)), max_matvecs=300)
    for part, number in ((found.negative, values < -found.threshold), (found.positive, values > found.threshold)):
        assert part.interval[0] <= number.sum() <= part.interval[1] < 1500
        assert part.interval[0] > 400


def test_what_cannot_be_resolved_is_degenerate():
    values = np.geomspace(1e-7, 1.0, 500)
    objective = objective_of("torch", *diagonal(values, np.zeros(500), 1.0))
    found = critical_point(objective, max_matvecs=400)
    assert found.kind == "degenerate" and found.smallest.interval[0] < 0 < 1e-7 < found.smallest.interval[1]
    assert found.resolution <= 1e-3 and "none below -" in str(found)
    # All of them takes n products.
    whole = critical_point(objective, max_matvecs=500)
    assert whole.kind == "minimum" and is_counted(whole)
    with pytest.warns(ConvergenceWarning, match=r"resolved .* by 40 products, where resolution=1e-06"):
        few = critical_point(objective, max_matvecs=40, resolution=1e-6)
    assert few.kind == "degenerate" and few.resolution > 1e-5 and not few.converged


def test_the_lower_bound_holds_as_often_as_it_says():
    # A single eigenvalue below a bulk: where a run has not seen it, its bound must reach it.
    missed = []
    for seed in range(40):
        values = np.concatenate([np.linspace(1.0, 2.0, 1499), [0.98]])
        run = specop.DiagonalOperator(values)
        missed.append(_lower_bound(run, seed) > 0.98)
    assert np.mean(missed) <= 0.1


def _lower_bound(operator, seed):
    from specop.krylov.run import Run
    from specop.spectral.edges import edges_of_spectrum

    with Run(operator, "edges", symmetric=True, limit=40, seed=seed) as run:
        edges = edges_of_spectrum(run, 2e-2, 0.95)
    assert edges.smallest.interval[1] >= 0.98
    return edges.smallest.interval[0]


def test_products_needed_are_those_of_kuczynski_and_wozniakowski():
    values = np.linspace(0.0, 1.0, 20_000)
    needed = np.log(1.648 * 20_000**0.5 / 0.05) / (2 * 1e-3**0.5)
    found = critical_point(objective_of("torch", *diagonal(values, np.zeros(20_000), 1.0)))
    assert 0.5 * needed < found.matvecs < 1.3 * needed and found.resolution <= 1e-3


@each_framework
def test_the_decrement_of_a_large_objective(framework):
    values = np.concatenate([np.linspace(0.5, 2.0, 1200), np.linspace(20, 30, 5), [-1.0, -2.0]])
    away = np.random.default_rng(1).normal(size=len(values))
    found = critical_point(objective_of(framework, *diagonal(values, away)), max_matvecs=300)
    assert found.kind == "not critical"
    np.testing.assert_allclose(found.positive_part, values[:-2] @ away[:-2] ** 2, rtol=2e-2)
    np.testing.assert_allclose(found.negative_part, values[-2:] @ away[-2:] ** 2, rtol=2e-2)
    assert found.decrement_error < 0.05 * found.decrement


def test_a_threshold_says_what_counts_as_zero():
    objective = objective_of("torch", *quadratic(np.diag([4.0, 1e-3, -1e-3]), at=np.ones(3), minimum=1.0, floor=0.5))
    assert critical_point(objective).kind == "saddle"
    found = critical_point(objective, threshold=1e-2)
    assert found.kind == "degenerate" and counts(found) == (0, 2, 1) and found.threshold == 1e-2


def test_another_point_than_the_model_is_at():
    objective = objective_of("torch", rosenbrock, {"w": np.zeros(2)})
    assert critical_point(objective, theta=objective.theta + 1).kind == "minimum"
    np.testing.assert_array_equal(host(objective.theta), 0)


def test_what_is_refused():
    objective = objective_of("torch", rosenbrock, {"w": np.array([1.0, np.nan])})
    with pytest.raises(NonFiniteError, match="these parameters hold NaN or infinity: w"):
        critical_point(objective)

    def infinite(xp, params, batch):
        return xp.sum(xp.log(params["w"])) + 0 * xp.sum(batch[0])

    objective = objective_of("torch", infinite, {"w": np.ones(2)})
    with pytest.raises(NonFiniteError, match="the loss is -inf"):
        critical_point(objective, theta=0 * objective.theta)
    objective = objective_of("torch", rosenbrock, {"w": np.ones(2)})
    for options in ({"rtol": -1.0}, {"resolution": 0.0}, {"confidence": 1.0}, {"max_matvecs": 0}, {"threshold": -1.0}):
        with pytest.raises(InvalidInputError, match=next(iter(options))):
            critical_point(objective, **options)
    with pytest.raises(InvalidInputError, match="theta must have shape"):
        critical_point(objective, theta=objective.theta[:1])


# Over all 310 vectors float32 shows an asymmetry of 2e-5.
@pytest.mark.filterwarnings("ignore::specop.errors.NoiseWarning")
def test_a_network_in_single_precision():
    torch = pytest.importorskip("torch")
    model, images, labels = small_cnn(150)

    def criterion(outputs, labels):
        penalty = sum((part**2).sum() for part in model.parameters())
        return torch.nn.functional.cross_entropy(outputs, labels) + 5e-3 * penalty

    start = critical_point(specop.objective(model, criterion, (images, labels)))
    assert start.kind == "not critical" and start.positive_part > 0.1
    solver = torch.optim.LBFGS(model.parameters(), max_iter=100, history_size=50, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        return loss

    solver.step(closure)
    objective = specop.objective(model, criterion, (images, labels))
    found = critical_point(objective)
    exact = specop.objective(model.double(), criterion, (images.double(), labels))
    dense = np.linalg.eigvalsh(host(exact.hessian().to_dense()))
    for value, end in ((found.smallest, dense[0]), (found.largest, dense[-1])):
        assert value.interval[0] <= end <= value.interval[1]
    assert found.kind != "minimum" if dense[0] < 0 else found.kind != "saddle"
    assert found.kind != "degenerate" or dense[0] > -1e-3 * dense[-1]
    assert found.negative.estimate == np.sum(dense < -found.threshold)


def test_the_picture_and_the_text():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    zero = {"a": np.zeros((5, 3)), "b": np.zeros((3, 5))}
    found = critical_point(objective_of("torch", linear_network, zero, (INPUTS, TARGETS)))
    text = str(found)
    assert text.startswith("saddle: loss ") and "15 negative, 0 zero, 15 positive" in text and "before it rises" in text
    ax = found.plot()
    assert ax.get_xlabel() == "distance" and len(ax.lines) == 4
    pyplot.close(ax.figure)
