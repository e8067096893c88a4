"""influence, leave_one_out, retrain and their comparison with training anew."""

import importlib.util
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import specop
from specop.analysis import influence, leave_one_out, retrain, validate_influence
from specop.arrays.backend import backend_of
from specop.errors import ConvergenceWarning, InvalidInputError, NotConvergedError, QuadraticModelWarning

FRAMEWORKS = [name for name in ("torch", "jax", "tensorflow") if find_spec(name) and find_spec(f"specop_{name}")]
each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)
# Most of these points are no minima; test_points_that_are_no_minimum looks at the warning.
pytestmark = pytest.mark.filterwarnings("ignore:the gradient has the norm:specop.errors.QuadraticModelWarning")

RNG = np.random.default_rng(0)
M, P, DAMPING = 17, 4, 0.05
X = np.hstack([RNG.normal(size=(M, P - 1)), np.ones((M, 1))])
Y = X @ np.array([1.0, -2.0, 0.5, 1.0]) + 0.3 * RNG.normal(size=M)
X_TEST, Y_TEST = X[:6] + 0.3, Y[:6] - 0.1
OFFSET = RNG.normal(size=P)


def tensorflow():
    return importlib.import_module("tensorflow")


ARRAYS = {
    "torch": lambda values: importlib.import_module("torch").tensor(values),
    "jax": lambda values: importlib.import_module("jax.numpy").array(values),
    "tensorflow": lambda values: tensorflow().constant(values),
}


def mean_square(outputs, y):
    return 0.5 * ((outputs - y) ** 2).mean()


def mean_square_tensorflow(outputs, y):
    return 0.5 * tensorflow().reduce_mean((outputs - y) ** 2)


def linear(params, batch):
    return batch[0] @ params["w"]


def least_squares(framework, w, x=X, y=Y, batches=1):
    """Half the mean squared error of a linear model; its Hessian is X'X / m."""
    array = ARRAYS[framework]
    params, criterion = {"w": array(w[:, None])}, mean_square
    if framework == "tensorflow":
        params, criterion = {"w": tensorflow().Variable(params["w"])}, mean_square_tensorflow
    parts = zip(np.array_split(x, batches), np.array_split(y[:, None], batches), strict=True)
    return specop.objective(linear, criterion, [(array(x), array(y)) for x, y in parts], params=params)


def host(values):
    return backend_of(values).to_numpy(values)


def ridge(x, y, damping, m=M):
    """Minimum of |x w - y|^2 / 2m + d |w|^2 / 2."""
    return np.linalg.solve(x.T @ x / m + damping * np.eye(P), x.T @ y / m)


def without(group):
    kept = np.setdiff1d(np.arange(M), group)
    return X[kept], Y[kept]


@each_framework
@pytest.mark.parametrize("damping", [0.0, DAMPING])
def test_a_newton_step_is_the_refit_of_least_squares(framework, damping):
    best = ridge(X, Y, damping)
    objective = least_squares(framework, best, batches=2)
    samples = [0, 7, 16]
    found = leave_one_out(objective, samples, damping=damping, newton=True, rtol=1e-13)
    first = leave_one_out(objective, samples, damping=damping, rtol=1e-13)
    assert found.converged and host(found.changes).shape == (P, 3)
    A = X.T @ X / M + damping * np.eye(P)
    leverage = np.einsum("ij,ij->i", X, np.linalg.solve(A, X.T).T) / M
    for i, sample in enumerate(samples):
        exact = ridge(*without([sample]), damping) - best
        np.testing.assert_allclose(host(found.change(i)), exact, rtol=0, atol=1e-10)
        np.testing.assert_allclose(host(first.change(i)), exact * (1 - leverage[sample]), rtol=0, atol=1e-10)


@each_framework
def test_groups_are_left_out_together(framework):
    best = ridge(X, Y, DAMPING)
    objective = least_squares(framework, best, batches=3)
    groups = [[0, 16, 5], [3], [7, 6]]
    found = leave_one_out(objective, groups, damping=DAMPING, newton=True, rtol=1e-13)
    assert [list(group) for group in found.groups] == groups
    for i, group in enumerate(groups):
        np.testing.assert_allclose(host(found.change(i)), ridge(*without(group), DAMPING) - best, rtol=0, atol=1e-10)
    first = leave_one_out(objective, groups, damping=DAMPING, rtol=1e-13)
    single = host(leave_one_out(objective, damping=DAMPING, rtol=1e-13).changes)
    for i, group in enumerate(groups):
        np.testing.assert_allclose(host(first.change(i)), single[:, group].sum(1), rtol=0, atol=1e-12)


@each_framework
def test_influence_is_the_derivative(framework):
    """Away from the minimum too: nothing is assumed of the gradient."""
    objective, test = (least_squares(framework, OFFSET, *data, 2) for data in ((X, Y), (X_TEST, Y_TEST)))
    gradients = X * (X @ OFFSET - Y)[:, None]
    tests = X_TEST * (X_TEST @ OFFSET - Y_TEST)[:, None]
    A = X.T @ X / M + DAMPING * np.eye(P)
    exact = gradients @ np.linalg.solve(A, tests.T) / M
    options = {"damping": DAMPING, "rtol": 1e-13}
    found = influence(objective, test, **options)
    np.testing.assert_allclose(found.scores, exact.mean(1), rtol=0, atol=1e-11)
    assert found.damping == DAMPING and found.samples == M and found.converged
    assert found.gradient_norm == pytest.approx(np.linalg.norm(gradients.mean(0) + DAMPING * OFFSET))
    single = influence(objective, test, per_sample=True, **options)
    np.testing.assert_allclose(single.scores, exact, rtol=0, atol=1e-11)
    some = influence(objective, test, indices=[9, 2, 16], **options)
    np.testing.assert_allclose(some.scores, found.scores[[9, 2, 16]], rtol=0, atol=1e-12)
    parameter = influence(objective, ARRAYS[framework](np.eye(P)[1]), **options)
    np.testing.assert_allclose(parameter.scores, np.linalg.solve(A, gradients.T)[1] / M, rtol=0, atol=1e-11)
    both = influence(objective, ARRAYS[framework](np.eye(P)[:, [1, 3]]), **options)
    np.testing.assert_allclose(both.scores[:, 0], parameter.scores, rtol=0, atol=1e-11)
    itself = influence(objective, **options)
    own = np.einsum("ij,ij->i", gradients, np.linalg.solve(A, gradients.T).T) / M
    np.testing.assert_allclose(itself.scores, own, rtol=0, atol=1e-11)
    few = influence(objective, indices=[5, 1], **options)
    np.testing.assert_allclose(few.scores, own[[5, 1]], rtol=0, atol=1e-11)


@each_framework
def test_retraining_is_the_refit(framework):
    objective = least_squares(framework, ridge(X, Y, DAMPING), batches=3)
    removed = retrain(objective, without=[4, 0], damping=DAMPING, gtol=1e-11)
    assert removed.converged and removed.steps == 1 and removed.gradient_norm <= 1e-11
    np.testing.assert_allclose(host(removed.theta), ridge(*without([4, 0]), DAMPING), rtol=0, atol=1e-9)
    added = retrain(objective, added=least_squares(framework, ridge(X, Y, DAMPING), X_TEST, Y_TEST), damping=DAMPING)
    exact = ridge(np.vstack([X, X_TEST]), np.concatenate([Y, Y_TEST]), DAMPING)
    np.testing.assert_allclose(host(added.theta), exact, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(host(objective.theta), ridge(X, Y, DAMPING))
    # The same minimum as the mean over what stays, with a weight decay that grew accordingly.
    rest = objective.subset(np.setdiff1d(np.arange(M), [4, 0]))
    mean = retrain(rest, damping=DAMPING * M / (M - 2), gtol=1e-11)
    np.testing.assert_allclose(host(mean.theta), host(removed.theta), rtol=0, atol=1e-9)


@each_framework
def test_a_newton_prediction_of_a_loss_is_what_retraining_gives(framework):
    best = ridge(X, Y, DAMPING)
    objective, test = least_squares(framework, best, batches=2), least_squares(framework, best, X_TEST, Y_TEST)
    predicted = influence(objective, test, damping=DAMPING, indices=[3, 1, 8], newton=True, rtol=1e-13)
    check = validate_influence(objective, test, predicted, indices=[8, 3, 1], gtol=1e-11)
    np.testing.assert_array_equal(check.indices, [8, 3, 1])
    np.testing.assert_allclose(check.predicted, check.actual, rtol=0, atol=1e-10)
    assert check.correlation == pytest.approx(1) and check.rank_correlation == pytest.approx(1)
    assert check.gradient_norms.max() <= 1e-11 and check.gradient_norms.shape == (4,)


def test_equal_scores_share_their_rank():
    x, y, empty = X.copy(), Y.copy(), [2, 5, 9]
    x[empty], y[empty] = 0.0, 0.0
    best = ridge(x, y, DAMPING)
    objective, test = (least_squares(FRAMEWORKS[0], best, *data) for data in ((x, y), (X_TEST, Y_TEST)))
    check = validate_influence(objective, test, influence(objective, test, damping=DAMPING), samples=M)
    assert (check.predicted == 0).sum() == 3
    exact = scipy.stats.spearmanr(check.predicted, check.actual).statistic
    assert check.rank_correlation == pytest.approx(exact, abs=1e-12)


@each_framework
def test_subsets_follow_the_order_of_the_data(framework):
    objective = least_squares(framework, OFFSET, batches=4)
    part = objective.subset([16, 0, 3, 9])
    rows = np.concatenate([host(block) for block in part.per_sample_gradients()])
    np.testing.assert_allclose(rows, (X * (X @ OFFSET - Y)[:, None])[[0, 3, 9, 16]], rtol=0, atol=1e-12)
    assert part.samples == part.terms == 4 and objective.terms == M
    nested = part.subset([1, 3]).gradient()
    np.testing.assert_allclose(host(nested), rows[[1, 3]].mean(0), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("error::specop.errors.QuadraticModelWarning")
@pytest.mark.parametrize("newton", [False, True])
def test_points_that_are_no_minimum(newton):
    best, away = (least_squares(FRAMEWORKS[0], w) for w in (ridge(X, Y, DAMPING), OFFSET))
    for call in (
        lambda found, damping: influence(found, found, damping=damping, newton=newton),
        lambda found, damping: leave_one_out(found, [[1, 2], [3]], damping=damping, newton=newton),
    ):
        call(best, DAMPING)
        with pytest.warns(QuadraticModelWarning, match=r"gradient has the norm .* standard error over 17 samples"):
            call(away, DAMPING)
        # Another penalty has its minimum elsewhere.
        with pytest.warns(QuadraticModelWarning):
            call(best, 100 * DAMPING)


def test_limits_on_products_are_of_the_whole_call():
    objective = least_squares(FRAMEWORKS[0], ridge(X, Y, DAMPING))
    with pytest.warns(ConvergenceWarning, match="max_matvecs"):
        found = leave_one_out(objective, damping=DAMPING, newton=True, max_matvecs=9)
    assert not found.converged and found.matvecs <= 9 + 2 * M
    with pytest.raises(NotConvergedError) as caught:
        influence(objective, objective, damping=DAMPING, max_matvecs=3, raise_on_failure=True)
    assert caught.value.result.matvecs <= 3


def test_another_point_than_the_models():
    best, away = ridge(X, Y, DAMPING), least_squares(FRAMEWORKS[0], OFFSET)
    at = least_squares(FRAMEWORKS[0], best)
    for newton in (False, True):
        options = {"damping": DAMPING, "rtol": 1e-12, "newton": newton}
        there = influence(away, away, theta=at.theta, **options)
        here = influence(at, at, **options)
        np.testing.assert_allclose(there.scores, here.scores, rtol=1e-9, atol=1e-12)
        assert there.gradient_norm == pytest.approx(here.gradient_norm, abs=1e-12)
        changes = [host(leave_one_out(one, theta=at.theta, **options).changes) for one in (away, at)]
        np.testing.assert_allclose(*changes, rtol=1e-9, atol=1e-12)


def test_rankings():
    objective = least_squares(FRAMEWORKS[0], OFFSET)
    found = influence(objective, least_squares(FRAMEWORKS[0], OFFSET, X_TEST, Y_TEST), damping=0.1)
    indices, scores = found.most_helpful(3)
    np.testing.assert_array_equal(indices, np.argsort(-found.scores)[:3])
    assert (scores > 0).all() and (np.diff(scores) <= 0).all()
    indices, scores = found.most_harmful(M)
    assert (scores < 0).all() and len(scores) == (found.scores < 0).sum()
    assert str(indices[0]) in str(found) and "damping 0.1" in str(found)


def test_results_are_saved_and_drawn(tmp_path):
    objective = least_squares(FRAMEWORKS[0], OFFSET)
    test = least_squares(FRAMEWORKS[0], OFFSET, X_TEST, Y_TEST)
    scores = influence(objective, test, damping=0.1)
    loo = leave_one_out(objective, [[1, 2], [3]], damping=0.1)
    new = retrain(objective, without=[1], damping=0.1)
    check = validate_influence(objective, test, scores, samples=5)
    for result in (scores, loo, new, check):
        result.save(tmp_path / "r.npz")
        again = specop.load(tmp_path / "r.npz")
        assert str(again) == str(result)
        result.summary()
    pytest.importorskip("matplotlib")
    ax = check.plot()
    assert ax.lines[1].get_xydata().shape == (5, 2)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), check.predicted)
    importlib.import_module("matplotlib.pyplot").close(ax.figure)


@each_framework
def test_criteria_that_couple_the_samples_of_a_batch_are_refused(framework):
    """The loss is the mean over batches, so that only a cut through them shows it."""
    array = ARRAYS[framework]
    mean = tensorflow().reduce_mean if framework == "tensorflow" else lambda z: z.mean()
    params = {"w": array(OFFSET[:, None])}
    if framework == "tensorflow":
        params = {"w": tensorflow().Variable(params["w"])}
    data = [(array(X[start : start + 8]), array(Y[start : start + 8, None])) for start in (0, 8)]
    criterion = {"criterion": lambda z, y: mean((z - mean(z) - y) ** 2), "batches": "as given"}
    coupled = specop.objective(linear, data=data, params=params, **criterion)
    for call in (
        lambda: influence(coupled, damping=1.0),
        lambda: influence(coupled, coupled.gradient(), damping=1.0),
        lambda: influence(coupled, coupled, damping=1.0, indices=[3], newton=True),
        lambda: leave_one_out(coupled, [list(range(8))], damping=1.0),
        lambda: retrain(coupled, without=np.arange(8), damping=1.0),
    ):
        with pytest.raises(InvalidInputError, match=r"every second sample.*what a sample adds is not known"):
            call()


def test_refusals():
    framework = FRAMEWORKS[0]
    objective = least_squares(framework, OFFSET)
    cases = [
        (lambda: influence(objective, least_squares(framework, 2 * OFFSET), damping=1.0), "other parameter values"),
        (lambda: influence(objective, damping=-1.0), "damping must be a finite number >= 0, got -1"),
        (lambda: influence(objective, per_sample=True, damping=1.0), "something to look at"),
        (lambda: influence(objective, objective.gradient(), per_sample=True, damping=1.0), "needs a test objective"),
        (lambda: influence(objective, indices=[3, 17], damping=1.0), "no sample 17: the data have the numbers 0 to 16"),
        (lambda: leave_one_out(objective, [[2, 2]], damping=1.0), "sample 2 is chosen twice"),
        (lambda: leave_one_out(objective, [], damping=1.0), r"from 0 to 16, or of groups of them.*got \[\]"),
        (lambda: leave_one_out(objective, 3, damping=1.0), r"from 0 to 16, or of groups of them.*got 3"),
        (lambda: leave_one_out(objective, [1, [2, 3]], damping=1.0), r"both numbers of samples and groups.*\[\[1\], "),
        (lambda: influence(objective, objective.gradient()[:3], damping=1.0), r"on must have shape \(4,\), got \(3,\)"),
        (lambda: influence(objective, X_TEST.T[:, :2], damping=1.0), r"on must be a .* got ndarray"),
        (lambda: leave_one_out(objective, [np.arange(M)], damping=1.0), "nothing is left to train on"),
        (lambda: influence(objective.subset([3]), damping=1.0), "the data hold one sample"),
        (lambda: leave_one_out(objective, [0.5], damping=1.0), "integers from 0 to 16"),
        (lambda: retrain(objective, damping=1.0, gtol=0.0), "gtol must be a positive number, got 0.0"),
        (lambda: retrain(objective, damping=1.0, steps=0), "steps must be a positive integer, got 0"),
        (lambda: retrain(objective, damping=1.0, matrix="empirical fisher"), "needs second derivatives"),
    ]
    for call, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            call()


@each_framework
def test_self_influence_of_weighted_samples_is_the_same_whichever_are_asked_for(framework):
    weights, array = 1.0 + np.arange(M) % 4, ARRAYS[framework]
    mean = tensorflow().reduce_mean if framework == "tensorflow" else lambda x: x.mean()
    params = {"w": array(OFFSET[:, None])}
    objective = specop.objective(
        linear,
        lambda outputs, y: mean(y[:, 1:] * (outputs - y[:, :1]) ** 2) / mean(y[:, 1:]) / 2,
        [(array(X[part]), array(np.stack([Y, weights], 1)[part])) for part in (slice(6), slice(6, M))],
        params={"w": tensorflow().Variable(params["w"])} if framework == "tensorflow" else params,
        weight=lambda batch: float(host(batch[1])[:, 1].sum()),
    )
    shares = weights / weights.sum()
    rows = M * shares[:, None] * X * (X @ OFFSET - Y)[:, None]
    curvature = (X.T * shares) @ X + DAMPING * np.eye(P)
    exact = np.einsum("ij,ij->i", rows, np.linalg.solve(curvature, rows.T).T) / M
    for chosen in (np.arange(M), [2], [9, 4, 16]):
        found = influence(objective, damping=DAMPING, indices=chosen, rtol=1e-13).scores
        np.testing.assert_allclose(found, exact[chosen], rtol=1e-9)


def test_influences_are_compared_with_what_they_are_on():
    framework = FRAMEWORKS[0]
    best = ridge(X, Y, DAMPING)
    objective, test = least_squares(framework, best), least_squares(framework, best, X_TEST, Y_TEST)
    scores = influence(objective, test, damping=1.0, indices=[1, 2])
    other, itself = influence(objective, test.gradient(), damping=1.0), influence(objective, damping=1.0)
    cases = [
        (lambda: validate_influence(objective, test, scores, indices=[5]), "sample 5 has no score"),
        (lambda: validate_influence(objective, test, scores, indices=np.arange(M) < 3), "integers from 0 to 16"),
        (lambda: validate_influence(objective, test, scores, indices=[1.5]), "integers from 0 to 16"),
        (lambda: validate_influence(objective, objective, itself), "are on the loss of each one itself, and on= is"),
        (
            lambda: validate_influence(objective, test, other),
            "a quantity with a given gradient, and on= is the loss of",
        ),
        (lambda: validate_influence(objective, objective, scores), "loss of 6 test samples, and on= is .* of 17 test"),
        (lambda: validate_influence(test, test, scores), "of 17 training samples, and the objective has 6"),
        (lambda: validate_influence(objective, test, scores.scores), "what specop.analysis.influence returned, got nd"),
    ]
    for call, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            call()


def test_samples_that_are_added_to_a_coupled_loss_are_refused():
    objective, array = least_squares(FRAMEWORKS[0], OFFSET), ARRAYS[FRAMEWORKS[0]]
    coupled = specop.objective(
        linear,
        lambda outputs, y: ((outputs - outputs.mean()) ** 2).mean() + (y**2).mean(),
        (array(X), array(Y[:, None])),
        params={"w": array(OFFSET[:, None])},
    )
    with pytest.raises(InvalidInputError, match="what a sample adds is not known"):
        retrain(coupled, added=coupled, damping=1.0)
    assert retrain(objective, added=objective.subset([3]), damping=1.0).added == 1


@pytest.mark.jax
def test_example_in_jax():
    pytest.importorskip("jax")
    pytest.importorskip("sklearn")
    found = example("influence_jax").main(checked=10)
    assert found.check.converged and found.newton_correlation > 0.99
    assert found.removed.matvecs < found.fitted_again.matvecs / 2
    distance = np.linalg.norm(host(found.removed.theta) - host(found.fitted_again.theta))
    assert distance <= (found.removed.gradient_norm + found.fitted_again.gradient_norm) / 0.01


@pytest.mark.slow
@pytest.mark.torch
def test_example_in_torch(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    found = example("influence_torch").main(plot=tmp_path / "influence.png")
    assert found.minimum.converged and found.check.converged and found.check.gradient_norms.max() <= 1e-6
    assert found.check.correlation > 0.95 and found.newton_correlation > 0.99
    assert (tmp_path / "influence.png").stat().st_size > 10_000


def example(name):
    path = Path(__file__).resolve().parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
