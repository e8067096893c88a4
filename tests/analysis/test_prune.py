"""saliency and prune against refits under constraints, dense matrices, and each other."""

import itertools

import numpy as np
import pytest
from matplotlib import pyplot

import specop
from cases import CASES
from parity.cases import FRAMEWORKS, numpy
from parity.cases import objective as parity
from specop.errors import (
    ConvergenceWarning,
    DomainError,
    InvalidInputError,
    NonFiniteError,
    NotConvergedError,
    QuadraticModelWarning,
)

FEATURES, OUTPUTS, SAMPLES = 5, 2, 30
WEIGHTS = FEATURES * OUTPUTS
X, Y = (np.random.default_rng(0).standard_normal((SAMPLES, k)) for k in (FEATURES, OUTPUTS))
DERIVATIVES = [case for case in CASES if case.framework in FRAMEWORKS and case.dtype == np.float64]
# Most of these weights are random; the tests of the guards look at what is said of them.
pytestmark = pytest.mark.filterwarnings("ignore::specop.errors.QuadraticModelWarning")
each_framework = pytest.mark.parametrize("case", DERIVATIVES, ids=str)
# Squared errors of a linear model are quadratic, so that every expectation is exact.
EXACT = {"matrix": "hessian", "damping": 0.0}


def linear(case, weights=None, bias=True):
    """Linear regression at its minimum, as an objective."""
    found = refit(np.ones(WEIGHTS, dtype=bool)) if weights is None else np.asarray(weights)
    params = [case.array(found[:WEIGHTS].reshape(FEATURES, OUTPUTS)), case.array(found[WEIGHTS:])]
    return specop.objective(
        lambda params, batch: batch[0] @ params[0] + params[1],
        lambda z, y: case.mean((z - y) ** 2),
        (case.array(X), case.array(Y)),
        params=params,
    )


def refit(mask):
    """The least squares solution with only these weights, and both biases unless the mask has them too."""
    found = np.zeros((FEATURES + 1, OUTPUTS))
    whole = np.append(mask, np.ones(WEIGHTS + OUTPUTS - len(mask), dtype=bool))
    for output, kept in enumerate(whole.reshape(FEATURES + 1, OUTPUTS).T):
        columns = np.flatnonzero(kept)
        design = np.column_stack([X, np.ones(SAMPLES)])[:, columns]
        found[columns, output] = np.linalg.lstsq(design, Y[:, output])[0]
    return found.reshape(-1)


def loss(vector):
    weights = vector.reshape(FEATURES + 1, OUTPUTS)
    return np.mean((X @ weights[:-1] + weights[-1] - Y) ** 2)


FULL = refit(np.ones(WEIGHTS, dtype=bool))
TORCH = pytest.mark.skipif("torch" not in FRAMEWORKS, reason="any one framework will do")


def one():
    return linear(DERIVATIVES[0])


# --- Where the loss is quadratic, expected is measured ----------------------------------------------------------------


@each_framework
def test_brain_surgeon_is_a_refit(case):
    objective = linear(case)
    scores = specop.analysis.saliency(objective, **EXACT)
    saliencies = case.numpy(scores.saliency)
    costs = [loss(refit(np.arange(WEIGHTS) != q)) - loss(FULL) for q in range(WEIGHTS)]
    np.testing.assert_allclose(saliencies[:WEIGHTS], costs, rtol=1e-10)
    assert np.isnan(saliencies[WEIGHTS:]).all()
    assert scores.order.tolist() == np.argsort(costs).tolist()
    for removal in scores.measured(3):
        np.testing.assert_allclose(removal.measured, removal.expected, rtol=1e-9)
    assert scores.least(1)[0].name == "0[{}, {}]".format(*divmod(int(np.argmin(costs)), OUTPUTS))


@pytest.mark.parametrize("steps", [1, 3])
@each_framework
def test_pruned_parameters_are_a_refit(case, steps):
    """However many steps: the rest is the best there is with these weights at zero."""
    objective = linear(case)
    result = specop.analysis.prune(objective, 0.6, steps=steps, **EXACT)
    theta = case.numpy(result.theta)
    assert np.count_nonzero(theta) == 4 + OUTPUTS and (theta[~result.mask] == 0).all()
    np.testing.assert_allclose(theta, refit(result.mask), rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.diff(result.losses), result.expected, rtol=1e-9)
    np.testing.assert_allclose(result.losses[-1], loss(theta), rtol=1e-12)
    np.testing.assert_array_equal(case.numpy(objective.theta), FULL)
    np.testing.assert_array_equal(case.numpy(result.parameters[0]), theta[:WEIGHTS].reshape(FEATURES, OUTPUTS))
    np.testing.assert_array_equal(case.numpy(result.masks[0]).reshape(-1), result.mask[:WEIGHTS])


@pytest.mark.parametrize("method", ["obs", "obd"])
@pytest.mark.parametrize("groups", [None, "rows"])
def test_expected_changes_hold_away_from_the_minimum(method, groups):
    moved = FULL + 0.1 * np.random.default_rng(1).standard_normal(len(FULL))
    objective = linear(DERIVATIVES[0], moved)
    exact = EXACT if method == "obs" else {"matrix": "hessian"}
    # The weights of a row belong to different outputs, so that brain damage neglects nothing.
    for removal in specop.analysis.saliency(objective, method, groups=groups, **exact).measured(WEIGHTS):
        np.testing.assert_allclose(removal.measured, removal.expected, rtol=1e-9)
    if method == "obs":
        result = specop.analysis.prune(objective, 0.6, groups=groups, steps=2, **exact)
        np.testing.assert_allclose(np.diff(result.losses), result.expected, rtol=1e-9)


def test_brain_damage_leaves_the_others():
    objective = one()
    scores = specop.analysis.saliency(objective, "obd", matrix="hessian")
    for q, removal in zip(scores.order, scores.measured(WEIGHTS), strict=True):
        without = FULL.copy()
        without[q] = 0
        np.testing.assert_allclose(removal.measured, loss(without) - loss(FULL), rtol=1e-9)
        np.testing.assert_allclose(removal.expected, removal.measured, rtol=1e-9)
    result = specop.analysis.prune(objective, 0.5, "obd", matrix="hessian", steps=2)
    np.testing.assert_array_equal(numpy(result.theta), np.where(result.mask, FULL, 0))


@pytest.mark.parametrize("groups", ["rows", "columns", np.arange(8).reshape(4, 2)], ids=["rows", "columns", "given"])
def test_groups_go_together(groups):
    objective = one()
    # A column is an output, and its bias goes with it.
    number = np.arange(WEIGHTS + OUTPUTS).reshape(FEATURES + 1, OUTPUTS)
    members = list({"rows": number[:-1], "columns": number.T}[groups] if isinstance(groups, str) else groups)
    scores = specop.analysis.saliency(objective, groups=groups, exclude=(), **EXACT)
    costs = [loss(refit(~np.isin(np.arange(WEIGHTS + OUTPUTS), group))) - loss(FULL) for group in members]
    np.testing.assert_allclose(numpy(scores.saliency), costs, rtol=1e-9)
    for removal in scores.measured(2):
        assert list(removal.indices) in [sorted(group.tolist()) for group in members]
        np.testing.assert_allclose(removal.measured, removal.expected, rtol=1e-9)
    result = specop.analysis.prune(objective, 0.7, groups=groups, exclude=(), steps=2, trust=None, **EXACT)
    gone = [not result.mask[group].any() for group in members]
    assert all(whole or result.mask[group].all() for whole, group in zip(gone, members, strict=True))
    assert sum(gone) > 0 and 0.7 - len(members[0]) / (len(members) * len(members[0])) < result.sparsity <= 0.7
    np.testing.assert_allclose(numpy(result.theta), refit(result.mask), rtol=0, atol=1e-10)


# --- Empirical Fisher matrices of a network ---------------------------------------------------------------------------


def rows_of(objective):
    return np.concatenate([numpy(block) for block in objective.per_sample_gradients()])


@TORCH
@pytest.mark.parametrize("blocks", [None, 64])
def test_saliencies_on_the_empirical_fisher_matrix(blocks, damping=0.01):
    objective = parity("torch", "mlp", "float64")
    rows, w = rows_of(objective), numpy(objective.theta)
    F = rows.T @ rows / len(rows)
    if blocks:
        same = np.arange(len(w)) // blocks
        F = np.where(same[:, None] == same, F, 0)
    inverse = np.linalg.inv(F + damping * np.eye(len(w)))
    scores = specop.analysis.saliency(objective, damping=damping, blocks=blocks)
    found, may = numpy(scores.saliency), scores.group >= 0
    np.testing.assert_allclose(found[may], (w**2 / (2 * np.diag(inverse)))[may], rtol=1e-9)
    groups = specop.analysis.saliency(objective, damping=damping, blocks=blocks, groups="columns")
    # The bias after the first matrix goes with its columns.
    for number, group in enumerate(np.arange(112).reshape(7, 16).T):
        expected = w[group] @ np.linalg.solve(inverse[np.ix_(group, group)], w[group]) / 2
        np.testing.assert_allclose(numpy(groups.saliency)[number], expected, rtol=1e-9)
    damage = specop.analysis.saliency(objective, "obd")
    np.testing.assert_allclose(numpy(damage.saliency)[may], (np.diag(rows.T @ rows / len(rows)) * w**2 / 2)[may])


@TORCH
def test_the_damping_follows_the_matrix_and_is_stated():
    objective = parity("torch", "mlp", "float64")
    rows = rows_of(objective)
    scores = specop.analysis.saliency(objective)
    np.testing.assert_allclose(scores.damping, 0.01 * np.mean(rows**2), rtol=1e-12)
    assert f"damping {scores.damping:.3g}" in str(scores)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_frameworks_prune_alike(framework):
    objective = parity(framework, "mlp", "float64")
    found = specop.analysis.prune(objective, 0.5, steps=2, damping=0.01)
    expected = specop.analysis.prune(parity("torch", "mlp", "float64"), 0.5, steps=2, damping=0.01)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_allclose(numpy(found.theta), numpy(expected.theta), rtol=0, atol=1e-7)
    assert found.sparsity == 0.5 and set(found.layers) == {name for name, mask in layers(found) if not mask.all()}


def layers(result):
    ends = np.cumsum([int(np.prod(shape)) for shape in result.shapes.values()])
    return zip(result.shapes, np.split(result.mask, ends[:-1]), strict=True)


@TORCH
def test_masks_stay():
    objective = parity("torch", "mlp", "float64")
    first = specop.analysis.prune(objective, 0.4, steps=2)
    # Training under the mask moves what is left.
    moved = first.theta + 0.01 * objective.unflatten(first.theta)[0].new_tensor(first.mask)
    second = specop.analysis.prune(objective, 0.7, steps=3, theta=moved)
    assert not (second.mask & ~first.mask).any()
    assert (numpy(second.theta)[~second.mask] == 0).all() and (numpy(second.theta)[second.mask] != 0).all()
    np.testing.assert_allclose(second.sparsities, 1 - 0.6 * 0.5 ** (np.arange(1, 4) / 3), atol=0.01)
    scores = specop.analysis.saliency(objective, theta=first.theta)
    assert first.mask[scores.order].all() and len(scores.order) == (first.mask & first.prunable).sum()


@TORCH
def test_small_steps_and_compensation_pay():
    objective = parity("torch", "mlp", "float64")
    theta = objective.theta
    for _ in range(500):
        theta = theta - 0.5 * objective.gradient(theta)
    final = {
        (method, steps): specop.analysis.prune(objective, 0.8, method, steps=steps, trust=None, theta=theta).losses[-1]
        for method, steps in itertools.product(("obs", "magnitude"), (1, 10))
    }
    assert final["obs", 10] < 0.5 * min(final["obs", 1], final["magnitude", 10])
    assert final["magnitude", 1] == final["magnitude", 10]


@TORCH
def test_any_schedule():
    cubic = 0.6 * (1 - (1 - np.arange(1, 6) / 5) ** 3)
    result = specop.analysis.prune(parity("torch", "mlp", "float64"), 0.6, "obd", steps=list(cubic))
    np.testing.assert_allclose(result.sparsities, cubic, atol=0.005)
    assert len(result.losses) == 6


# --- Guards ----------------------------------------------------------------------------------------------------------


def parameters_only(loss_of, *arrays):
    """An objective of parameters without data to speak of."""
    case = DERIVATIVES[0]
    return specop.objective(
        lambda params, _: loss_of(case, *params), params=[case.array(x) for x in arrays], data=case.array([[0.0]])
    )


def cliff():
    """Next to flat around ones, and one higher at zero, which no second derivative tells."""
    return parameters_only(
        lambda case, w: case.mean(0.002 * (w - 1) ** 2 + 1 / (1 + (4 * w * w) ** 20)), np.ones((2, 3))
    )


@pytest.mark.parametrize("method", ["obs", "obd"])
def test_a_step_that_costs_far_more_than_expected_is_not_taken(method):
    exact = {"matrix": "hessian"} | ({"damping": 0.0} if method == "obs" else {})
    with pytest.warns(ConvergenceWarning, match=r"stopped before step 1 of 2, .*trust=None to go on"):
        result = specop.analysis.prune(cliff(), 0.5, method, steps=2, **exact)
    assert not result.converged and result.mask.all() and len(result.losses) == 1 and not len(result.expected)
    np.testing.assert_array_equal(numpy(result.theta), np.ones(6))
    assert str(result) and result.plot() and len(result.to_frame()) == 0
    pyplot.close("all")
    with pytest.raises(NotConvergedError):
        specop.analysis.prune(cliff(), 0.5, method, raise_on_failure=True, **exact)
    all_the_same = specop.analysis.prune(cliff(), 0.5, method, steps=2, trust=None, **exact)
    assert all_the_same.sparsity == 0.5 and all_the_same.losses[-1] > 100 * all_the_same.expected.sum()
    with pytest.warns(QuadraticModelWarning, match=r"without 0\[0, 0\] alone .* does not hold"):
        scores = specop.analysis.saliency(cliff(), method, **exact)
    assert (scores.tried_measured > 100 * scores.tried_expected).all()
    assert "expected (and measured): 0[0, 0]" in str(scores)


@pytest.mark.filterwarnings("error::specop.errors.QuadraticModelWarning")
def test_where_the_model_holds_nothing_is_warned_of():
    scores = specop.analysis.saliency(one(), **EXACT)
    np.testing.assert_allclose(scores.tried_measured, scores.tried_expected, rtol=1e-9)
    np.testing.assert_array_equal(scores.tried, scores.order[[0, 0, 2, 4]][1:])
    with pytest.warns(QuadraticModelWarning, match="this point is no minimum"):
        specop.analysis.prune(linear(DERIVATIVES[0], FULL + 1.0), 0.2, trust=None, **EXACT)
    specop.analysis.prune(linear(DERIVATIVES[0], FULL + 1.0), 0.2, "magnitude")


def test_no_layer_is_removed_whole():
    small, large = np.linspace(0.01, 0.02, 8).reshape(2, 4), np.linspace(1.0, 2.0, 16).reshape(4, 4)
    objective = parameters_only(lambda case, a, b: case.mean(a**2) + case.mean(b**2), small, large)
    shares = {
        (groups, limit): specop.analysis.prune(
            objective, 0.5, "magnitude", groups=groups, layer_limit=limit, steps=3
        ).layers["0"]
        for groups in (None, "rows")
        for limit in (None, 0.5, 1.0)
    }
    assert shares == {
        (None, None): 0.875,
        (None, 0.5): 0.5,
        (None, 1.0): 1.0,
        ("rows", None): 0.5,
        ("rows", 0.5): 0.5,
        ("rows", 1.0): 1.0,
    }


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_outputs_stay_unless_they_are_let_go(framework):
    objective = parity(framework, "mlp", "float64")
    names = list(objective.shapes)
    weights = [name for name in names if len(objective.shapes[name]) == 2]

    def layers_with(**options):
        return set(specop.analysis.prune(objective, 0.3, "magnitude", groups="columns", steps=1, **options).layers)

    inner = layers_with()
    assert weights[-1] not in inner and set(weights[:-1]) <= inner
    assert layers_with(exclude=()) == set(names)
    assert weights[0] not in layers_with(exclude=[weights[0]]) and weights[-1] in layers_with(exclude=[weights[0]])
    # The other axis holds inputs. Single weights are no outputs.
    assert weights[-1] in specop.analysis.saliency(objective, "magnitude", groups="rows").labels[-1]
    assert weights[-1] in specop.analysis.prune(objective, 0.3, "magnitude").layers
    with pytest.raises(InvalidInputError, match="exclude='head' matches no parameter"):
        specop.analysis.saliency(objective, exclude="head")
    with pytest.raises(InvalidInputError, match=r"nothing is left that may go without .* exclude=\(\)"):
        specop.analysis.saliency(objective, exclude=weights)


@TORCH
def test_a_filter_goes_with_its_bias_and_its_normalization():
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(6, 3),
    )
    model = model.double().eval()
    data = torch.randn(12, 1, 5, 5).double(), torch.arange(12) % 3
    objective = specop.objective(model, nn.functional.cross_entropy, data)
    result = specop.analysis.prune(objective, 0.5, "obd", groups="rows", trust=None, steps=2)
    model.load_state_dict(result.parameters, strict=False)
    images, lost = data[0], 0
    for first in (0, 3):
        convolution, norm = model[first : first + 2]
        gone = (convolution.weight == 0).flatten(1).all(1)
        lost += int(gone.sum())
        # Biases of the normalization were zero, and are there with their filters.
        assert (convolution.weight[~gone] != 0).all() and not gone.all()
        images = norm(convolution(images))
        assert (images[:, gone] == 0).all() and (images[:, ~gone] != 0).any()
        images = images.relu()
    assert lost > 0
    assert set(result.layers) == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "4.weight", "4.bias"}
    assert (model[8].weight != 0).all()


def two_convolutions(order, flow):
    """Two convolutions of six filters and two norms, named in an order and connected by a flow."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            made = {
                "conv1": nn.Conv2d(1, 6, 3, padding=1, bias=False),
                "conv2": nn.Conv2d(6 if flow != "sum" else 1, 6, 3, padding=1, bias=False),
                "norm1": nn.BatchNorm2d(6),
                "norm2": nn.BatchNorm2d(6),
                "out": nn.Linear(6, 3),
            }
            for name in order:
                self.add_module(name, made[name])
            # Alike, so that magnitudes choose filters of both.
            for name in ("conv1", "conv2"):
                nn.init.normal_(made[name].weight)

        def forward(self, x):
            if flow == "sum":
                x = self.norm2(self.norm1(self.conv1(x) + self.conv2(x)).relu())
            elif flow == "residual":
                x = self.norm1(self.conv1(x)).relu()
                x = self.norm2(x + self.conv2(x))
            else:
                x = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
            return self.out(x.relu().mean((2, 3)))

    torch.manual_seed(0)
    model = Network().double().train()
    data = torch.randn(12, 1, 5, 5).double(), torch.arange(12) % 3
    model(data[0])
    return specop.objective(model.eval(), nn.functional.cross_entropy, data)


@TORCH
@pytest.mark.parametrize(
    ("flow", "partners"),
    [
        ("chain", {"norm1": "conv1", "norm2": "conv2"}),
        ("residual", {"norm1": "conv1", "norm2": None}),
        ("sum", {"norm1": None, "norm2": None}),
    ],
)
@pytest.mark.parametrize(
    "order",
    [
        ("conv1", "norm1", "conv2", "norm2", "out"),
        ("conv1", "conv2", "norm1", "norm2", "out"),
        ("conv1", "conv2", "norm2", "norm1", "out"),
        ("norm2", "norm1", "out", "conv2", "conv1"),
    ],
    ids=lambda order: " ".join(order),
)
def test_a_filter_goes_with_the_norm_that_scales_it_in_whatever_order_they_are_named(order, flow, partners):
    objective = two_convolutions(order, flow)
    result = specop.analysis.prune(objective, 0.5, "magnitude", groups="rows", trust=None)
    kept = {name: result.mask[where].reshape(objective.shapes[name]) for name, where in objective.slices.items()}
    assert not any(kept[f"conv{i}.weight"].all() for i in (1, 2))
    for norm, convolution in partners.items():
        rows = np.ones(6, bool) if convolution is None else kept[f"{convolution}.weight"].reshape(6, -1).any(axis=1)
        for part in ("weight", "bias"):
            np.testing.assert_array_equal(kept[f"{norm}.{part}"], rows)


@pytest.mark.parametrize("framework", ["jax"])
def test_biases_of_a_flat_dict_stay_where_it_does_not_tell_whose_they_are(framework):
    pytest.importorskip(framework)
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(8, 4))), jnp.asarray(rng.normal(size=(8, 2)))
    params = {"b1": np.ones(4), "b2": np.ones(4), "w1": rng.normal(size=(4, 4)), "w2": rng.normal(size=(4, 4))}
    params |= {"b3": np.ones(2), "w3": rng.normal(size=(4, 2))}

    def outputs(p, batch):
        return jnp.tanh(jnp.tanh(batch[0] @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]) @ p["w3"] + p["b3"]

    objective = specop.objective(
        outputs, lambda z, y: jnp.mean((z - y) ** 2), (x, y), params={k: jnp.asarray(v) for k, v in params.items()}
    )
    result = specop.analysis.prune(objective, 0.3, "magnitude", groups="columns", trust=None)
    assert all(result.mask[objective.slices[name]].all() for name in ("b1", "b2", "b3"))
    assert not result.mask.all()


# --- Single precision, files, pictures --------------------------------------------------------------------------------


@TORCH
def test_single_precision():
    found, expected = (
        specop.analysis.prune(parity("torch", "mlp", dtype), 0.3, steps=2) for dtype in ("float32", "float64")
    )
    assert found.theta.dtype == parity("torch", "mlp", "float32").theta.dtype
    assert (found.mask == expected.mask).mean() > 0.98
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-2)


def test_results_are_kept(tmp_path):
    objective = one()
    scores, result = specop.analysis.saliency(objective, groups="rows"), specop.analysis.prune(objective, 0.5, steps=2)
    for kept in (scores, result):
        kept.save(tmp_path / "result.npz")
        again = specop.load(tmp_path / "result.npz")
        np.testing.assert_array_equal(again.theta, numpy(kept.theta))
        assert str(again) == str(kept) and again.shapes.keys() == kept.shapes.keys()
        assert type(again.summary()["message"]) is str and "theta" not in kept.summary()
        assert again.shapes == kept.shapes
    assert again.layers == result.layers
    np.testing.assert_array_equal(again.masks["0"], numpy(result.masks[0]))
    np.testing.assert_array_equal(again.parameters["0"], numpy(result.parameters[0]))
    scores.save(tmp_path / "result.npz")
    with pytest.raises(InvalidInputError, match="loaded from a file"):
        specop.load(tmp_path / "result.npz").measured()
    axes = result.plot()
    assert len(axes.lines) == 3 and result.plot(axes) is axes
    pyplot.close(axes.figure)


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("method must be one of 'obs', 'obd', 'magnitude', got 'hbs'", {"method": "hbs"}),
        ("matrix must be one of 'hessian'", {"matrix": "kfac"}),
        ("damping must be a finite number >= 0, got -1", {"damping": -1.0}),
        ("damping must be a finite number >= 0, got nan", {"damping": float("nan")}),
        ("damping must be a finite number >= 0, got -1", {"matrix": "ggn", "damping": -1.0}),
        ("'obd' inverts nothing and takes neither damping=", {"method": "obd", "damping": 0.1}),
        ("blocks= belongs to matrix='empirical fisher'", {"matrix": "hessian", "blocks": 4}),
        ("groups must be 'rows', 'columns' or a list", {"groups": "heads"}),
        ("group 1 holds an index twice, or one that another", {"groups": [[0, 1], [1]]}),
        ("group 0 holds indices from 3 to 99", {"groups": [[3, 99]]}),
        ("group 0 must be a non-empty array of integers", {"groups": [[]]}),
        ("groups is empty", {"groups": []}),
        ("theta must have", {"theta": DERIVATIVES[0].array([1.0])}),
    ],
)
def test_wrong_arguments(text, arguments):
    for call in (specop.analysis.saliency, lambda *_, **keywords: specop.analysis.prune(one(), 0.5, **keywords)):
        with pytest.raises(InvalidInputError, match=text):
            call(one(), **arguments)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), True])
def test_sparsities_out_of_range(sparsity):
    with pytest.raises(InvalidInputError, match="sparsity must be a number from 0 to below 1"):
        specop.analysis.prune(one(), sparsity)


@pytest.mark.parametrize("steps", [0, -2, True, [0.5, 0.4, 0.6], [0.3, 0.5], []])
def test_wrong_schedules(steps):
    with pytest.raises(InvalidInputError, match="steps must"):
        specop.analysis.prune(one(), 0.6, steps=steps)


def test_more_zeros_than_asked_for():
    sparse = specop.analysis.prune(one(), 0.8, "magnitude").theta
    with pytest.raises(InvalidInputError, match=r"80 % of the weights are zero already, got sparsity=0\.5"):
        specop.analysis.prune(one(), 0.5, theta=sparse)
    again = specop.analysis.prune(one(), 0.8, "magnitude", theta=sparse)
    np.testing.assert_array_equal(numpy(again.theta), numpy(sparse))


def test_matrices_that_have_no_inverse():
    case = DERIVATIVES[0]
    unused = X.copy()
    unused[:, 1] = unused[:, 0]
    singular = specop.objective(
        lambda params, batch: batch[0] @ params[0],
        lambda z, y: case.mean((z - y) ** 2),
        (case.array(unused), case.array(Y)),
        params=[case.array(FULL[:WEIGHTS].reshape(FEATURES, OUTPUTS))],
    )
    with pytest.raises(DomainError, match=r"not positive definite: its smallest eigenvalue is .*Pass damping above"):
        specop.analysis.saliency(singular, **EXACT)
    with pytest.raises(InvalidInputError, match=r"singular .*damping 0 .*eigenvalues.*larger damping"):
        specop.analysis.saliency(singular, damping=0.0)
    blind = specop.objective(
        lambda params, batch: batch[0] @ params[0],
        lambda z, y: case.mean((z - y) ** 2),
        (case.array(0 * X), case.array(Y)),
        params=[case.array(FULL[:WEIGHTS].reshape(FEATURES, OUTPUTS))],
    )
    with pytest.raises(DomainError, match="gradients of all samples are zero"):
        specop.analysis.saliency(blind)


def test_indefinite_matrices():
    case = DERIVATIVES[0]
    saddle = specop.objective(
        lambda params, _: case.mean(params[0] ** 2 * case.array([[1.0, 2.0], [-3.0, 4.0]])),
        params=[case.array(np.ones((2, 2)))],
        data=case.array([[0.0]]),
    )
    with pytest.raises(
        DomainError, match=r"not positive definite: its smallest eigenvalue is -1\.4, .*Pass damping above 1\.5"
    ):
        specop.analysis.saliency(saddle, matrix="hessian", damping=0.1)
    with pytest.raises(DomainError, match=r"has -1\.5 on its diagonal, at entry 2.*no minimum"):
        specop.analysis.saliency(saddle, "obd", matrix="hessian")
    scores = specop.analysis.saliency(saddle, matrix="hessian", damping=1.6)
    np.testing.assert_allclose(numpy(scores.saliency), np.array([2.1, 2.6, 0.1, 3.6]) / 2, rtol=1e-9)


def test_parameters_that_are_not_finite():
    case = DERIVATIVES[0]
    theta = case.array(np.where(np.arange(12) == 3, np.nan, FULL))
    for method in ("obs", "magnitude"):
        with pytest.raises(NonFiniteError, match=r"these parameters hold NaN or infinity: 0\. Restore"):
            specop.analysis.prune(linear(case), 0.5, method, theta=theta)


def test_nothing_that_could_go():
    case = DERIVATIVES[0]
    objective = specop.objective(
        lambda params, _: case.mean(params[0] ** 2), params=[case.array([1.0, 2.0])], data=case.array([[0.0]])
    )
    with pytest.raises(InvalidInputError, match=r"no parameter has two or more dimensions.*np.arange"):
        specop.analysis.saliency(objective, "magnitude")
    scores = specop.analysis.saliency(objective, "magnitude", groups=np.arange(2)[:, None])
    assert [one.name for one in scores.least()] == ["group 0", "group 1"]


def test_large_matrices_without_rows_are_refused():
    case = DERIVATIVES[0]
    objective = specop.objective(
        lambda params, _: case.mean(params[0] ** 2), params=[case.normal(40, 30)], data=case.array([[0.0]])
    )
    with pytest.raises(InvalidInputError, match=r"for at most 1000 weights; there are 1200. Take matrix='empirical"):
        specop.analysis.saliency(objective, matrix="hessian")


def test_nothing_left():
    objective = one()
    zeros = DERIVATIVES[0].array(np.where(np.arange(12) < WEIGHTS, 0, FULL))
    with pytest.raises(InvalidInputError, match="all weights that may go are zero already"):
        specop.analysis.saliency(objective, theta=zeros)


@TORCH
def test_saliencies_lost_to_rounding_are_bounded():
    """In single precision no saliency is negative, and none above that of brain damage."""
    objective = parity("torch", "mlp", "float32")
    for damping in (1e-7, 1e-9):
        scores = specop.analysis.saliency(objective, damping=damping)
        found, may = numpy(scores.saliency), scores.group >= 0
        damage = numpy(specop.analysis.saliency(objective, "obd").saliency) + damping * numpy(objective.theta) ** 2 / 2
        assert (found[may] >= 0).all() and (found[may] <= damage[may] * (1 + 1e-5)).all()
