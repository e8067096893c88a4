"""flatness: each measure against its closed form, what rescaling does to it, and intervals that cover."""

import itertools

import numpy as np
import pytest

import specop
from landscape_cases import each_framework, host, objective_of, quadratic, small_cnn
from specop.errors import InvalidInputError, NonFiniteError
from specop.landscape import flatness

rng = np.random.default_rng(0)
AT = np.array([1.0, -2.0, 0.5, 0.0, 3.0, -1.5])
HALF = rng.normal(size=(6, 6))
MATRIX = HALF @ HALF.T / 6
INPUTS, LABELS = rng.normal(size=(24, 4)), rng.integers(3, size=24)


def relu_network(xp, params, batch):
    x, y = batch
    outputs = xp.relu(x @ params["w1"] + params["b1"]) @ params["w2"]
    return xp.mean(xp.sum((outputs - y) ** 2, -1))


def softmax(xp, params, batch):
    x, y = batch
    scores = x @ params["w"]
    return xp.mean(xp.log(xp.sum(xp.exp(scores), -1)) - xp.sum(scores * y, -1))


def rectangle(values):
    def loss(xp, params, batch):
        return 0.3 + 0.5 * xp.sum(xp.array(values) * params["w"] ** 2) + 0 * xp.sum(batch[0])

    return loss, {"w": np.zeros(len(values))}


def at_minimum(framework):
    return objective_of(framework, *quadratic(MATRIX, at=AT, minimum=AT, floor=0.5))


@each_framework
def test_closed_forms_at_the_minimum_of_a_quadratic(framework):
    found = flatness(at_minimum(framework), prior=0.1, draws=12)
    values, measures = np.linalg.eigvalsh(MATRIX), found.measures
    exact = {
        "largest_eigenvalue": values[-1],
        "trace": values.sum(),
        "mean_eigenvalue": values.mean(),
        "frobenius_norm": np.linalg.norm(values),
        "effective_dimension": np.sum(values / (values + 0.1)),
        "log_determinant": np.linalg.slogdet(np.eye(6) + MATRIX / 0.1)[1],
        "average_rise_quadratic": 0.5e-4 * values.sum(),
        "fisher_rao_norm": 0.0,
    }
    for name, value in exact.items():
        np.testing.assert_allclose(measures[name].estimate, value, rtol=1e-6, atol=1e-20, err_msg=name)
        assert measures[name].kind == "exact" and measures[name].standard_error == 0

    corners = np.array(list(itertools.product([-1, 1], repeat=6))) * 1e-3 * (np.abs(AT) + 1)
    scale = np.diag(np.abs(AT) + 0.01)
    bounds = {
        "box_sharpness": 100 * 0.5 * np.einsum("ki,ij,kj->k", corners, MATRIX, corners).max() / 1.5,
        "ball_sharpness": 0.5 * 0.05**2 * values[-1],
        "adaptive_sharpness": 0.5 * 0.5**2 * np.linalg.eigvalsh(scale @ MATRIX @ scale)[-1],
    }
    for name, value in bounds.items():
        np.testing.assert_allclose(measures[name].estimate, value, rtol=1e-5, err_msg=name)
        assert measures[name].kind == "lower bound" and measures[name].interval[1] == np.inf

    estimates = {"average_rise": 0.5e-4 * values.sum(), "pac_bayes_sigma": (0.2 / values.sum()) ** 0.5}
    along = 0.5 * np.sum(np.diag(MATRIX) * AT**2)
    estimates["pac_bayes_relative_sigma"] = ((0.1 - 0.5e-6 * values.sum()) / along) ** 0.5
    for name, value in estimates.items():
        low, high = measures[name].interval
        assert low <= value <= high, name
        np.testing.assert_allclose(measures[name].estimate, value, rtol=0.6, err_msg=name)
    assert found.missing == {"relative_flatness": "no parameter has two or more dimensions"}
    assert not found.remark


@each_framework
@pytest.mark.parametrize("size", [80, 200])
def test_sums_of_a_small_singular_matrix_are_exact(framework, size):
    """A random vector's space closes early there, with each eigenvalue's weight by chance."""
    half = np.random.default_rng(1).normal(size=(size, 5))
    matrix = half @ half.T / size
    at = np.ones(size)
    names = ["trace", "frobenius_norm", "effective_dimension", "log_determinant"]
    found = flatness(objective_of(framework, *quadratic(matrix, at=at, minimum=at)), measures=names, prior=0.1)
    values = np.linalg.eigvalsh(matrix)
    expected = [values.sum(), np.linalg.norm(values), np.sum(values / (values + 0.1)), np.log1p(values / 0.1).sum()]
    for name, value in zip(names, expected, strict=True):
        measure = found.measures[name]
        np.testing.assert_allclose(measure.estimate, value, rtol=1e-6, err_msg=name)
        assert measure.kind == "exact" and measure.standard_error == 0


def test_the_largest_rise_beside_a_slope():
    place = np.array([0.02, -0.01])
    loss, params = quadratic(np.diag([3.0, 1.0]), at=place, floor=0.5)
    found = flatness(objective_of("torch", loss, params), measures=["ball_sharpness", "box_sharpness"])
    angles = np.linspace(0, 2 * np.pi, 100_001)
    moved = place + 0.05 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    before, after = 0.5 * place**2 @ [3, 1], 0.5 * moved**2 @ [3, 1]
    np.testing.assert_allclose(found["ball_sharpness"].estimate, after.max() - before, rtol=1e-3)
    assert found["ball_sharpness"].estimate <= (after.max() - before) * (1 + 1e-9)
    far = np.abs(place) + 1e-3 * (np.abs(place) + 1)
    expected = 100 * (0.5 * far**2 @ [3, 1] - before) / (1.5 + before)
    np.testing.assert_allclose(found["box_sharpness"].estimate, expected, rtol=1e-9)


def test_worst_cases_of_a_loss_that_is_not_quadratic():
    def loss(xp, params, batch):
        return 0.1 + xp.sum(params["w"] ** 2) + 4 * params["w"][1] ** 4 + 0 * xp.sum(batch[0])

    objective = objective_of("torch", loss, {"w": np.zeros(2)})
    options = {"ball": 1.0, "sigma": 1.0, "draws": 200}
    found = flatness(objective, measures=["ball_sharpness", "average_rise", "average_rise_quadratic"], **options)
    # The steepest corner is not along an eigenvector of the Hessian, of which all directions are some.
    np.testing.assert_allclose(found["ball_sharpness"].estimate, 5.0, rtol=1e-2)
    # E z^4 = 3.
    low, high = found["average_rise"].interval
    assert low <= 2 + 12 <= high
    np.testing.assert_allclose(found["average_rise_quadratic"].estimate, 2.0, rtol=1e-9)


@each_framework
def test_rescaling_layers_leaves_what_is_said_to_be_invariant(framework):
    rng = np.random.default_rng(1)
    params = {"w1": rng.normal(size=(4, 5)), "b1": rng.normal(size=5), "w2": rng.normal(size=(5, 2))}
    data = INPUTS, np.maximum(INPUTS @ params["w1"] + params["b1"], 0) @ params["w2"] + 0.1 * rng.normal(size=(24, 2))
    scaled = {"w1": 4 * params["w1"], "b1": 4 * params["b1"], "w2": params["w2"] / 4}
    objectives = [objective_of(framework, relu_network, one, data) for one in (params, scaled)]
    losses = [float(objective.loss()) for objective in objectives]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-12)
    diagonals = [specop.diagonal(one.hessian(), method="exact").x for one in objectives]
    for name, factor in (("w1", 1 / 16), ("b1", 1 / 16), ("w2", 16)):
        traces = [host(one)[objectives[0].slices[name]].sum() for one in diagonals]
        np.testing.assert_allclose(traces[1], factor * traces[0], rtol=1e-10)
    for layer in ("w1", "w2"):
        options = {"draws": 3, "adaptive_offset": 0.0, "relative_offset": 0.0, "layer": layer, "filter_axis": -1}
        names = ["trace", "box_sharpness", "adaptive_sharpness", "fisher_rao_norm", "pac_bayes_relative_sigma"]
        options["measures"] = ["relative_flatness", *(names if layer == "w2" else [])]
        before, after = (flatness(one, **options).measures for one in objectives)
        for name, measure in before.items():
            ratio = after[name].estimate / measure.estimate
            assert measure.invariant == after[name].invariant == (abs(ratio - 1) < 1e-3), (name, ratio)
    assert not flatness(objectives[0], measures=["adaptive_sharpness"])["adaptive_sharpness"].invariant


@each_framework
def test_the_relative_flatness_of_a_softmax_layer(framework):
    weights = np.random.default_rng(1).normal(size=(4, 3))
    labels = np.eye(3)[LABELS]
    objective = objective_of(framework, softmax, {"w": weights}, (INPUTS, labels))
    found = flatness(objective, measures=["relative_flatness", "fisher_rao_norm"], filter_axis=1)
    for measures in ("relative_flatness", "fisher_rao_norm"):
        with pytest.raises(specop.errors.InvalidInputError, match="filter_axis=2 is no axis of w"):
            flatness(objective, measures=measures, filter_axis=2)
    scores = INPUTS @ weights
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    inner = weights.T @ weights
    # H_st is the mean of (p_s d_st - p_s p_t) x x'.
    each = (p @ np.diag(inner) - np.einsum("ms,st,mt->m", p, inner, p)) * (INPUTS**2).sum(axis=1)
    np.testing.assert_allclose(found["relative_flatness"].estimate, each.mean(), rtol=1e-9)
    assert found["relative_flatness"].kind == "exact" and found["relative_flatness"].invariant
    # A function tells no outputs: gradients of samples, p - y on the scores.
    along = ((p - labels) * scores).sum(axis=1)
    np.testing.assert_allclose(found["fisher_rao_norm"].estimate, np.mean(along**2), rtol=1e-9)
    assert found.settings["fisher"] == "the empirical Fisher matrix of samples"


def test_measures_of_a_module():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Linear(9, 12, bias=False).double()
    x, y = torch.randn(30, 9, dtype=torch.float64), torch.randint(12, (30,))
    objective = specop.objective(model, torch.nn.functional.cross_entropy, (x, y))
    found = flatness(objective, measures=["relative_flatness", "fisher_rao_norm"], draws=64)
    scores = (x @ model.weight.T).detach().numpy()
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    variance = (p * scores**2).sum(axis=1) - (p * scores).sum(axis=1) ** 2
    np.testing.assert_allclose(found["fisher_rao_norm"].estimate, variance.mean(), rtol=1e-9)
    inner = (model.weight @ model.weight.T).detach().numpy()
    each = (p @ np.diag(inner) - np.einsum("ms,st,mt->m", p, inner, p)) * (x.numpy() ** 2).sum(axis=1)
    low, high = found["relative_flatness"].interval
    assert low <= each.mean() <= high and high - low < 0.5 * each.mean()
    assert found.settings["layer"] == "weight" and "exact Fisher" in str(found)


SPECTRUM = np.concatenate([[30.0, 20.0, 12.0], np.random.default_rng(5).exponential(0.2, 297)])
SUMS = {
    "largest_eigenvalue": 30.0,
    "trace": SPECTRUM.sum(),
    "mean_eigenvalue": SPECTRUM.mean(),
    "frobenius_norm": np.linalg.norm(SPECTRUM),
    "effective_dimension": np.sum(SPECTRUM / (SPECTRUM + 0.01)),
    "log_determinant": np.sum(np.log1p(SPECTRUM / 0.01)),
}


def covered(objective, truth, seeds, **options):
    """Return for each measure how often its interval holds the truth."""
    runs = [flatness(objective, measures=list(truth), seed=seed, **options).measures for seed in range(seeds)]
    inside = [
        [run[name].interval[0] <= value <= run[name].interval[1] for name, value in truth.items()] for run in runs
    ]
    return dict(zip(truth, np.sum(inside, axis=0), strict=True))


def test_intervals_of_sums_cover():
    found = covered(objective_of("torch", *rectangle(SPECTRUM)), SUMS, 16, prior=0.01)
    assert min(found.values()) >= 12, found


def test_sums_that_are_steep_where_many_eigenvalues_lie_are_enclosed():
    """Thirty steps do not tell eigenvalues near the prior from zero: what more steps change is not what is left."""
    draw = np.random.default_rng(7)
    values = np.concatenate([[6.0, 4.0, 3.0], draw.exponential(0.3, 160), 10 ** draw.uniform(-4, -2, 110)])
    truth = {
        "effective_dimension": np.sum(values / (values + 1 / 300)),
        "log_determinant": np.sum(np.log1p(300 * values)),
    }
    loss, params = rectangle(np.concatenate([values, -(10 ** draw.uniform(-3, -1.5, 40))]))
    found = covered(objective_of("torch", loss, params), truth, 6, prior=1 / 300)
    # At 95 percent, and bounds on top.
    assert min(found.values()) >= 5, found


def test_intervals_of_averages_cover():
    truth = {"average_rise": 0.5e-4 * SPECTRUM[3:].sum(), "pac_bayes_sigma": (0.2 / SPECTRUM[3:].sum()) ** 0.5}
    found = covered(objective_of("torch", *rectangle(SPECTRUM[3:])), truth, 16)
    assert min(found.values()) >= 13, found


def test_negative_eigenvalues_are_named():
    found = flatness(objective_of("torch", *quadratic(np.diag([4.0, 1.0, -2.0]), at=np.zeros(3), floor=0.5)), prior=1.0)
    np.testing.assert_allclose(found["trace"].estimate, 3.0, rtol=1e-9)
    np.testing.assert_allclose(found["log_determinant"].estimate, np.log(10), rtol=1e-9)
    assert "negative eigenvalues, down to at most -2" in found.remark and found.remark in str(found)


def test_a_point_that_is_no_minimum_is_named():
    objective = objective_of("torch", *quadratic(np.diag([4.0, 1.0]), at=np.ones(2), floor=0.5))
    found = flatness(objective, measures=["ball_sharpness"])
    assert found.remark.startswith("no minimum: over a distance of 0.05 the gradient changes the loss by 0.21")


def test_levels_of_noise_without_an_end():
    def bounded(xp, params, batch):
        return 1.0 + 0.05 * xp.tanh(xp.sum(params["w"] ** 2)) + 0 * xp.sum(batch[0])

    objective = objective_of("torch", bounded, {"w": np.zeros(2)})
    assert flatness(objective, measures=["pac_bayes_sigma"])["pac_bayes_sigma"].estimate == np.inf
    # What the offset alone costs is already too much.
    steep = objective_of("torch", *quadratic(np.diag([1e9, 1e9]), at=np.ones(2), minimum=1.0))
    found = flatness(steep, measures=["pac_bayes_relative_sigma"])["pac_bayes_relative_sigma"]
    assert found.estimate == 0 and found.interval[0] == 0


def test_the_same_seed_gives_the_same_bits():
    objective = at_minimum("torch")
    found = [flatness(objective, seed=3).measures for _ in range(2)]
    assert found[0] == found[1]
    assert flatness(objective, seed=4)["average_rise"] != found[0]["average_rise"]
    np.testing.assert_array_equal(host(objective.theta), AT)


def test_another_point_than_the_model_is_at():
    objective = objective_of("torch", *quadratic(MATRIX, at=np.zeros(6), minimum=AT, floor=0.5))
    there = objective.theta + at_minimum("torch").theta
    names = ["box_sharpness", "adaptive_sharpness", "pac_bayes_relative_sigma"]
    moved, direct = flatness(objective, theta=there, measures=names), flatness(at_minimum("torch"), measures=names)
    for name in names:
        np.testing.assert_allclose(moved[name].estimate, direct[name].estimate, rtol=1e-9)


def test_what_is_refused():
    objective = at_minimum("torch")
    with pytest.raises(InvalidInputError, match="measures must be among largest_eigenvalue, trace"):
        flatness(objective, measures=["sharpness"])
    with pytest.raises(InvalidInputError, match="layer must name a parameter of two or more dimensions, got 'w'"):
        flatness(objective, layer="w")
    for options in ({"prior": 0.0}, {"box": -1.0}, {"ball": 0.0}, {"sigma": np.inf}, {"rise": 0.0}, {"draws": 1}):
        with pytest.raises(InvalidInputError, match=next(iter(options))):
            flatness(objective, **options)
    with pytest.raises(NonFiniteError, match="these parameters hold NaN or infinity: w"):
        flatness(objective, theta=objective.theta * np.nan)


def test_a_network_in_single_precision():
    torch = pytest.importorskip("torch")
    model, images, labels = small_cnn(300)
    solver = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        solver.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        solver.step()
    batches = [(images[:200], labels[:200]), (images[200:], labels[200:])]
    # One run is held against the truth: at 95 percent, of one in twenty it may lie outside.
    found = flatness(specop.objective(model, torch.nn.functional.cross_entropy, batches), confidence=0.999)
    dense = specop.objective(model.double(), torch.nn.functional.cross_entropy, (images.double(), labels))
    values = np.linalg.eigvalsh(host(dense.hessian().to_dense()))
    above = np.maximum(values, 0)
    truth = {
        "largest_eigenvalue": values[-1],
        "trace": values.sum(),
        "effective_dimension": np.sum(above / (above + 1 / 300)),
        "log_determinant": np.sum(np.log1p(above * 300)),
    }
    for name, value in truth.items():
        low, high = found[name].interval
        assert low - 1e-5 * value <= value <= high + 1e-5 * value, name
    text = str(found)
    assert len(text.splitlines()) < 30 and "lower bound" in text and "keeps it" in text


def test_rises_below_the_rounding_of_losses_are_named():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).bfloat16()
    data = torch.randn(64, 10).bfloat16(), torch.randint(3, (64,))
    objective = specop.objective(model, torch.nn.functional.cross_entropy, data)
    found = flatness(objective, measures=["box_sharpness", "average_rise", "adaptive_sharpness"], sigma=1e-3)
    assert "losses are rounded to about 0.00" in found.remark and "box_sharpness, average_rise" in found.remark
    exact = specop.objective(model.double(), torch.nn.functional.cross_entropy, (data[0].double(), data[1]))
    assert "rounded" not in flatness(exact, measures=["box_sharpness", "average_rise"], sigma=1e-3).remark


def test_a_prior_that_is_too_small_is_named():
    sizes = np.geomspace(1e-9, 1.0, 400)
    objective = objective_of("torch", *rectangle(np.where(np.arange(400) % 3, sizes, -sizes)))
    found = flatness(objective, measures=["effective_dimension", "log_determinant"], prior=1e-7)
    assert "hardly known: eigenvalues near the prior 1e-07" in found.remark
    for one in found.measures.values():
        assert 0 <= one.interval[0] <= one.estimate <= one.interval[1]
    assert found["effective_dimension"].interval[1] <= 400
    assert "hardly" not in flatness(objective, measures=["effective_dimension"], prior=10.0).remark


def test_a_loss_below_minus_one_has_no_box_sharpness():
    loss, params = quadratic(np.diag([2.0, 1.0]), at=np.ones(2), minimum=1.0, floor=-3.0)
    found = flatness(objective_of("torch", loss, params), measures=["box_sharpness", "trace"])
    assert list(found.measures) == ["trace"]
    assert found.missing == {"box_sharpness": "it divides by 1 + loss, and the loss is -3"}
