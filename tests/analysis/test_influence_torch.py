"""Influences in real models of torch, and what only torch modules have."""

import copy

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F

import specop
import torch_cases
from specop.analysis import influence, leave_one_out, retrain, validate_influence
from specop.analysis._changed_losses import ChangedLoss
from specop.errors import ConvergenceWarning, InvalidInputError

# Most of these points are no minima; test_influence looks at the warning.
pytestmark = pytest.mark.filterwarnings("ignore:the gradient has the norm:specop.errors.QuadraticModelWarning")

MISRA1A = np.array(
    [
        [10.07, 77.6],
        [14.73, 114.9],
        [17.94, 141.1],
        [23.93, 190.8],
        [29.61, 239.9],
        [35.18, 289.0],
        [40.02, 332.8],
        [44.82, 378.4],
        [50.76, 434.8],
        [55.05, 477.3],
        [61.01, 536.8],
        [66.40, 593.1],
        [75.47, 689.1],
        [81.78, 760.0],
    ]
)


def misra(params, batch):
    return params["b"][0] * (1 - torch.exp(-params["b"][1] * batch[0]))


def test_standard_errors_of_misra1a():
    """NIST's certified ones: the inverse Gauss-Newton matrix times the residual variance."""
    y, x = torch.tensor(MISRA1A).T
    params = {"b": torch.tensor([2.3894212918e02, 5.5015643181e-04], dtype=torch.float64)}
    objective = specop.objective(misra, F.mse_loss, (x, y), params=params)
    variance = float(objective.loss()) * 14 / 12
    # The parameters differ by six orders of magnitude: scaled by the diagonal, the condition number is 1e3, not 1e13.
    G = objective.ggn()
    scale = specop.DiagonalOperator(1 / torch.diagonal(G.to_dense()))
    covariance = objective.solve(
        torch.eye(2, dtype=torch.float64), matrix="ggn", damping=0.0, preconditioner=scale, rtol=1e-7
    ).x * (2 / 14 * variance)
    errors = torch.diagonal(covariance).sqrt().numpy()
    np.testing.assert_allclose(errors, [2.7070075241, 7.2668688436e-06], rtol=1e-9)


def breast_cancer(damping):
    """A trained logistic regression: training and test objectives."""
    data = pytest.importorskip("sklearn.datasets").load_breast_cancer()
    x = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0))
    y = torch.tensor(data.target, dtype=torch.float64)[:, None]
    order = torch.tensor(np.random.default_rng(0).permutation(len(x)))
    train, test = order[:426], order[426:]
    model = nn.Linear(30, 1).double()
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    objectives = [
        specop.objective(model, F.binary_cross_entropy_with_logits, (x[part], y[part])) for part in (train, test)
    ]
    model.load_state_dict(retrain(objectives[0], damping=damping, gtol=1e-9).parameters)
    return objectives


def test_influence_in_a_logistic_regression():
    train, test = breast_cancer(0.01)
    first = influence(train, test, damping=0.01)
    check = validate_influence(train, test, first, samples=20)
    assert check.converged and check.correlation > 0.95 and check.gradient_norms.max() <= 1e-6
    exact = influence(train, test, damping=0.01, indices=check.indices, newton=True)
    assert np.corrcoef(exact.scores, check.actual)[0, 1] > 0.998
    ours = leave_one_out(train, check.indices, damping=0.01, newton=True)
    linear = (test.gradient() @ ours.changes).numpy()
    assert np.corrcoef(linear, check.actual)[0, 1] > 0.99


def test_fast_retraining_takes_fewer_products():
    train, _ = breast_cancer(0.01)
    removed = np.arange(20)
    again = retrain(train, without=removed, damping=0.01, gtol=1e-7)
    anew = retrain(train, without=removed, damping=0.01, gtol=1e-7, theta=torch.zeros(31, dtype=torch.float64))
    assert again.converged and anew.converged
    # Both are within |gradient| / damping of the one minimum.
    assert float((again.theta - anew.theta).norm()) <= (again.gradient_norm + anew.gradient_norm) / 0.01
    assert again.matvecs < 0.5 * anew.matvecs and again.gradients < 0.6 * anew.gradients
    once = retrain(train, without=removed, damping=0.01, steps=1)
    assert once.steps == 1 and not once.converged and once.gradient_norm < 0.1 * once.gradient_norms[0]


def test_newton_leaves_a_saddle():
    """At a saddle the Hessian is indefinite; the damped steps go down to a minimum."""
    params = {"x": torch.tensor([0.1, 0.05], dtype=torch.float64)}

    def loss(params, batch):
        x = params["x"]
        return (x[0] ** 2 - 1) ** 2 + (x[1] ** 2 - 1) ** 2 + 0.3 * x[0] * x[1]

    objective = specop.objective(loss, params=params)
    found = retrain(objective, damping=0.0, gtol=1e-10)
    values = np.linalg.eigvalsh(objective.hessian(found.theta).to_dense())
    assert np.linalg.eigvalsh(objective.hessian().to_dense())[0] < 0 < values[0]
    assert found.converged and found.loss < float(objective.loss())


def test_retraining_that_stops_early_warns():
    train, _ = breast_cancer(0.01)
    with pytest.warns(
        ConvergenceWarning, match=r"norm .*, where 1.00e-30 is asked for: no step .* rounding in float64"
    ):
        found = retrain(train, damping=0.01, gtol=1e-30)
    assert not found.converged and found.gradient_norm < 1e-8


def small(weights=None, criterion=None, n=24):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    data = torch.randn(n, 3).double(), torch.arange(n) % 3
    return model, specop.objective(
        model,
        criterion or nn.CrossEntropyLoss(weight=weights),
        [tuple(part[:9] for part in data), tuple(part[9:] for part in data)],
    )


def test_the_model_is_left_as_it_was():
    model, objective = small()
    before = torch_cases.snapshot(model)
    influence(objective, objective, damping=0.1, matrix="ggn")
    leave_one_out(objective, [1, 3], damping=0.5, newton=True)
    retrain(objective, without=[2], damping=0.1)
    assert torch_cases.same(torch_cases.snapshot(model), before)


def test_losses_that_are_no_mean_over_samples_are_refused():
    weights = torch.tensor([1.0, 2.0, 5.0]).double()
    _, objective = small(criterion=lambda z, y: F.cross_entropy(z, y, weight=weights))
    for call in (
        lambda: influence(objective, damping=1.0),
        lambda: influence(objective, objective.gradient(), damping=1.0),
        lambda: leave_one_out(objective, [0], damping=1.0),
        lambda: retrain(objective, without=[0], damping=1.0),
    ):
        with pytest.raises(InvalidInputError, match=r"several batches do not add up.*the criterion is no mean"):
            call()


def test_class_weights_are_the_weights_of_samples():
    _, objective = small(torch.tensor([1.0, 2.0, 5.0]).double())
    found = leave_one_out(objective, damping=1.0, rtol=1e-12)
    gradient = objective.gradient()
    scores = influence(objective, gradient, damping=1.0, rtol=1e-12).scores
    np.testing.assert_allclose(scores, gradient @ found.changes, rtol=0, atol=1e-12)
    rest = objective.subset(np.setdiff1d(np.arange(24), [4]))
    H = objective.hessian().to_dense() + torch.eye(objective.n).double()
    without = rest.terms / objective.terms * rest.gradient()
    torch_cases.close(found.change(4), torch.linalg.solve(H, gradient - without))


def test_samples_of_several_terms():
    """A sequence without its padding counts as many terms as it has tokens."""
    model, criterion, batch = torch_cases.problem("tokens")
    weight = torch_cases.WEIGHTS["tokens"]
    objective = specop.objective(model, criterion, torch_cases.split(batch, 4, 7), weight=weight)
    found = leave_one_out(objective, damping=1.0, rtol=1e-12)
    scores = influence(objective, objective.gradient(), damping=1.0, rtol=1e-12).scores
    np.testing.assert_allclose(scores, objective.gradient() @ found.changes, rtol=0, atol=1e-12)
    some = influence(objective, objective.gradient(), damping=1.0, rtol=1e-12, indices=[9, 1]).scores
    np.testing.assert_allclose(some, scores[[9, 1]], rtol=0, atol=1e-12)
    theta = objective.theta + 0.1
    rest = objective.subset(np.arange(2, 11))
    changed = ChangedLoss(objective, 0.0, without=[0, 1])
    share = rest.terms / objective.terms
    torch_cases.close(changed.gradient(theta), share * rest.gradient(theta))
    torch_cases.close(changed.hessian(theta).to_dense(), share * rest.hessian(theta).to_dense())


def test_an_indefinite_matrix_is_named():
    _, objective = small()
    lowest = np.linalg.eigvalsh(objective.hessian().to_dense())[0]
    assert lowest < -1e-3
    found = influence(objective, objective, damping=0.5 * abs(lowest))
    assert "not positive definite: a direction of curvature -" in found.message
    assert "not positive definite" in str(found)


@pytest.mark.parametrize(
    ("matrix", "width"), [("ggn", 10), ("empirical fisher", 10), ("empirical fisher", 45)], ids=str
)
def test_self_influence_in_single_precision(matrix, width):
    """The matrix is made once, or not at all; nothing goes on column by column because of rounding."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, width), nn.Tanh(), nn.Linear(width, 3))
    data = torch.randn(200, 10), torch.arange(200) % 3
    single = specop.objective(model, F.cross_entropy, data)
    found = influence(single, damping=1e-4, matrix=matrix)
    double = specop.objective(copy.deepcopy(model).double(), F.cross_entropy, (data[0].double(), data[1]))
    n = double.n
    operator = double.ggn() if matrix == "ggn" else double.fisher(kind="empirical", of="samples")
    rows = torch.cat(list(double.per_sample_gradients()))
    exact = (rows * torch.linalg.solve(operator.to_dense() + 1e-4 * torch.eye(n).double(), rows.T).T).sum(1) / 200
    np.testing.assert_allclose(found.scores, exact, rtol=1e-3)
    assert found.converged and found.matvecs <= (n if matrix == "ggn" else 0)
    assert found.residuals.shape == (200,)
    some = influence(single, single.gradient(), damping=1e-4, matrix=matrix, indices=[150, 3])
    along = rows @ torch.linalg.solve(operator.to_dense() + 1e-4 * torch.eye(n).double(), double.gradient()) / 200
    np.testing.assert_allclose(some.scores, along[[150, 3]], rtol=1e-2)
