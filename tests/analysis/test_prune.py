"""saliency and prune against refits under constraints, dense matrices, and each other."""

import itertools

import numpy as np
import pytest
from matplotlib import pyplot

import specop
from parity.cases import FRAMEWORKS, numpy
from parity.cases import objective as parity
from prune_cases import DERIVATIVES, EXACT, FEATURES, FULL, OUTPUTS, TORCH, WEIGHTS, linear, loss, one, refit
from specop.errors import InvalidInputError

# Most of these weights are random; the tests of the guards look at what is said of them.
pytestmark = pytest.mark.filterwarnings("ignore::specop.errors.QuadraticModelWarning")
each_framework = pytest.mark.parametrize("case", DERIVATIVES, ids=str)


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
def test_blocks_are_slices_of_all_weights_also_where_some_are_gone(damping=0.01):
    objective = parity("torch", "mlp", "float64")
    parts = list(objective.slices.values())
    w = numpy(objective.theta).copy()
    w[parts[0]], w[parts[1].start] = 0.0, 0.0
    theta = objective.theta.new_tensor(w)
    rows, left = np.concatenate([numpy(block) for block in objective.per_sample_gradients(theta)]), w != 0
    F = rows.T @ rows / len(rows)
    number = np.concatenate([np.full(part.stop - part.start, i) for i, part in enumerate(parts)])
    F = np.where(number[:, None] == number, F, 0)[np.ix_(left, left)]
    expected = np.zeros(len(w))
    expected[left] = w[left] ** 2 / (2 * np.diag(np.linalg.inv(F + damping * np.eye(left.sum()))))
    scores = specop.analysis.saliency(objective, damping=damping, blocks=parts, theta=theta)
    may = left & (scores.group >= 0)
    np.testing.assert_allclose(numpy(scores.saliency)[may], expected[may], rtol=1e-9)
    assert specop.analysis.prune(objective, 0.5, blocks=parts, steps=3, trust=None).converged


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
