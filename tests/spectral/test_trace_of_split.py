"""A trace from samples' gradients and from what products show beside them, against the dense matrix."""

import itertools

import numpy as np
import pytest

import specop
from parity.cases import FRAMEWORKS, numpy, objective, operator
from parity.problems import PROBLEMS
from specop.errors import InvalidInputError
from specop.objectives.autodiff import Matrix
from specop.objectives.likelihoods import Likelihood
from specop.spectral.part import remainder

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from specop_torch.likelihoods import FUNCTIONS

SAMPLES = 640
CASES = ["relu untrained", "tanh trained", "mislabeled", "heavy inputs", "unlike", "gaussian"]


def network(kind):
    """A network of 107 parameters in one of the hard cases, and its data in batches of 100."""
    torch.manual_seed(1)
    x = torch.randn(SAMPLES, 6, dtype=torch.float64)
    y = (x @ torch.randn(6, 3, dtype=torch.float64)).argmax(1)
    activation = torch.nn.Tanh() if kind in ("tanh trained", "gaussian") else torch.nn.ReLU()
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), activation, torch.nn.Linear(8, 3)).double()
    criterion = F.mse_loss if kind == "gaussian" else F.cross_entropy
    if kind == "gaussian":
        y = torch.tanh(x[:, :3]) + 0.1 * torch.randn(SAMPLES, 3, dtype=torch.float64)
    if kind == "mislabeled":
        y[torch.randperm(SAMPLES)[: SAMPLES // 50]] = 0
    if kind == "heavy inputs":
        x = x * torch.tensor(np.random.default_rng(0).pareto(2.5, (SAMPLES, 1)) + 0.3)
    if kind == "unlike":
        x[100:150] *= 4.0
    if "untrained" not in kind:
        optimizer = torch.optim.Adam(model.parameters(), 2e-2)
        for _ in range(60):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    return specop.objective(model, criterion, list(zip(x.split(100), y.split(100), strict=True)))


@pytest.mark.parametrize(
    ("kind", "runs", "least"),
    [("tanh trained", 3, 2), *(pytest.param(kind, 100, 88, marks=pytest.mark.slow) for kind in CASES)],
)
def test_intervals_cover(kind, runs, least):
    H = network(kind).hessian()
    truth = float(H.to_dense().trace())
    found = [specop.trace(H, rtol=0.1, data="part", seed=seed) for seed in range(runs)]
    assert all(one.converged and one.method == "gradients" for one in found)
    assert sum(one.interval[0] <= truth <= one.interval[1] for one in found) >= least
    apart = np.array([one.estimate for one in found]) - truth
    # Runs that miss the few samples of long inputs, which outputs do not tell, see little scatter and end sooner.
    assert kind == "heavy inputs" or abs(apart.mean()) < 4.0 * apart.std() / len(apart) ** 0.5
    assert all(one.estimates.mean() == pytest.approx(one.estimate) for one in found[:2])


def test_what_couples_arrays_costs_nothing():
    """The Hessian of an untrained network with ReLU is nearly all beside the diagonal blocks of its arrays."""
    H = network("relu untrained").hessian()
    found = specop.trace(H, rtol=0.05, data="part")
    norm = float(torch.linalg.norm(H.to_dense()))
    # Random vectors for all of the matrix would take (2 norm^2) / (rtol trace)^2 products.
    assert found.converged and found.matvecs < 0.2 * 2.0 * (norm / (0.05 * found.estimate)) ** 2
    assert abs(found.estimate - float(H.to_dense().trace())) <= 4.0 * found.standard_error


def test_of_one_output_it_is_exact_once_all_samples_were_seen():
    torch.manual_seed(0)
    x, y = torch.randn(40, 5, dtype=torch.float64), (torch.rand(40) < 0.5).double()
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1), torch.nn.Flatten(0))
    A = specop.objective(model.double(), torch.nn.BCEWithLogitsLoss(), [(x[:25], y[:25]), (x[25:], y[25:])]).ggn()
    found = specop.trace(A, rtol=1e-6, data="part")
    assert found.standard_error == 0.0 and found.samples_used == 40
    assert found.estimate == pytest.approx(float(A.to_dense().trace()), rel=1e-9)


def test_samples_that_do_not_count_add_nothing():
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.arange(40) % 3
    y[::3] = -100
    weight = torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)
    model = torch.nn.Linear(5, 3).double()
    H = specop.objective(
        model, torch.nn.CrossEntropyLoss(weight=weight), [(x[:25], y[:25]), (x[25:], y[25:])]
    ).hessian()
    found = specop.trace(H, rtol=0.1, data="part")
    assert found.method == "gradients"
    assert abs(found.estimate - float(H.to_dense().trace())) <= 4.0 * found.standard_error


def test_where_samples_have_no_gradients_groups_are_multiplied():
    """Outputs with a row for each token do not say which sample they belong to."""
    x, y = torch.randn(60, 4, 5, dtype=torch.float64), torch.randint(0, 3, (60, 4))
    model = torch.nn.Linear(5, 3).double()
    found = specop.objective(
        model,
        lambda z, b: F.cross_entropy(z, b[1].flatten()),
        [(x[:30], y[:30]), (x[30:], y[30:])],
        forward=lambda m, b: m(b[0]).flatten(0, 1),
        likelihood="categorical",
        weight=lambda b: b[1].numel(),
    )
    H = found.hessian()
    result = specop.trace(H, rtol=0.1, data="part")
    assert result.method == "hutchinson"
    assert abs(result.estimate - float(H.to_dense().trace())) <= 4.0 * result.standard_error


def test_a_limit_that_is_too_low_for_a_first_look_is_spent_on_groups():
    objective = network("tanh trained")
    found = specop.trace(objective.subset(range(40)).hessian(), max_matvecs=1, data="part")
    assert found.matvecs == 1 and found.method == "hutchinson"
    found = specop.trace(objective.hessian(), max_matvecs=3, data="part")
    assert 2 <= found.matvecs <= 3 and found.method == "gradients"


def test_more_arrays_than_are_multiplied_in_a_group(monkeypatch):
    monkeypatch.setattr(remainder, "_MOST", 2)
    H = network("tanh trained").hessian()
    truth = float(H.to_dense().trace())
    found = specop.trace(H, rtol=0.1, data="part")
    assert found.converged and abs(found.estimate - truth) <= 4.0 * found.standard_error


@pytest.mark.parametrize("classes", [2, 5])
def test_root_of_the_information(classes):
    z = torch.randn(3, classes, dtype=torch.float64) * torch.tensor([[1.0], [8.0], [0.0]])
    weights = torch.tensor([[0.5], [2.0], [0.0]], dtype=torch.float64)
    likelihood = Likelihood(FUNCTIONS, "categorical", -1)
    columns = [torch.eye(classes, dtype=torch.float64)[j].expand(3, classes) for j in range(classes)]
    root = torch.stack([likelihood.root(z, weights)(u) for u in columns], dim=2)
    information = torch.stack([likelihood.information(z, weights)(u) for u in columns], dim=2)
    assert torch.allclose(root @ root.mT, information, rtol=1e-9, atol=1e-15)
    # One column is zero: of two classes signs leave nothing to chance.
    assert ((root.norm(dim=1) == 0).sum(1) >= 1).all()


class Tokens(torch.nn.Module):
    """The user's own cross entropy of tokens, (samples, tokens, classes)."""

    def forward(self, z, y):
        return -z.log_softmax(-1).gather(-1, y[..., None]).mean()


def test_a_criterion_of_the_users_own_is_recognised_by_its_second_derivative():
    x, y = torch.randn(60, 4, 5, dtype=torch.float64), torch.randint(0, 3, (60, 4))
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    H = specop.objective(model, Tokens(), [(x[:30], y[:30]), (x[30:], y[30:])]).hessian()
    found = specop.trace(H, rtol=0.1, data="part")
    assert found.method == "gradients"
    assert abs(found.estimate - float(H.to_dense().trace())) <= 4.0 * found.standard_error


@pytest.mark.parametrize(
    "criterion",
    [
        # A Gaussian's in the middle, and nobody's where outputs are far from there.
        lambda z, y: F.huber_loss(z, y, delta=3.0),
        lambda z, y: (z - y).abs().pow(3).mean(),
    ],
)
def test_other_criteria_are_nobodys(criterion):
    x, y = 3.0 * torch.randn(60, 5, dtype=torch.float64), 0.1 * torch.randn(60, 2, dtype=torch.float64)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[2].weight.mul_(5.0)
    A = specop.objective(model, criterion, [(x, y)]).ggn()
    result = specop.trace(A, rtol=0.1, data="part")
    assert result.method != "gradients"
    assert abs(result.estimate - float(A.to_dense().trace())) <= 4.0 * result.standard_error


def test_groups_of_criteria_that_are_nobodys_are_multiplied_from_the_first_on():
    x, y = torch.randn(600, 3, dtype=torch.float64), torch.randint(0, 3, (600,))
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    batches = [(x[:380], y[:380]), (x[380:], y[380:])]
    H = specop.objective(model, lambda z, y: F.cross_entropy(0.5 * z, y), batches).hessian()
    for limit in ({"max_matvecs": 2}, {"rtol": 0.2}):
        result = specop.trace(H, data="part", **limit)
        assert result.method != "gradients"
        assert abs(result.estimate - float(H.to_dense().trace())) <= 5.0 * result.standard_error


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_curvature_of_the_outputs_is_the_rest_of_the_hessian(framework):
    found = objective(framework, "mlp", "float64")
    H, G = (numpy(operator(found, kind).to_dense()) for kind in ("hessian", "ggn"))
    autodiff, vector = found._autodiff, np.random.default_rng(0).standard_normal(found.n)
    native, image = autodiff.backend.from_host(vector, autodiff.layout), 0.0
    with found._data.reading() as batches:
        for batch, share, _ in batches:
            linear = autodiff.linearize(None, batch, native, Matrix("output curvature"))
            assert numpy(linear.apply(native)) == pytest.approx(numpy(linear.first))
            image = image + share * numpy(linear.first)
    assert image == pytest.approx((H - G) @ vector, rel=1e-9, abs=1e-12)


def test_a_rest_that_is_not_the_rest_is_refused(monkeypatch):
    found = network("tanh trained")
    right = type(found._autodiff).product

    def wrong(self, theta, batch, vector, matrix):
        image = right(self, theta, batch, vector, matrix)
        return 1.01 * image if matrix.kind == "output curvature" else image

    monkeypatch.setattr(type(found._autodiff), "product", wrong)
    with pytest.raises(InvalidInputError, match="curvature of the outputs, but products differ by"):
        specop.trace(found.hessian(), rtol=0.1, data="part")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_samples_traces_are_those_of_their_jacobians(framework):
    """The mean over all signs of the outputs is the trace of the sample's own Gauss-Newton matrix."""
    found = objective(framework, "mlp", "float64")
    autodiff, (_, y) = found._autodiff, PROBLEMS["mlp"].batches[0]
    with found._data.reading() as batches:
        batch, _, _ = next(batches)
        every = []
        for signs in itertools.product((-1, 1), repeat=4):
            drawn = np.tile(np.array(signs, np.int8), (len(y), 1))
            every.append(autodiff.sample_traces(None, batch, lambda count, drawn=drawn: drawn)(1, 3))
        z = numpy(autodiff.outputs(None, batch)).reshape(len(y), 4)
    J = numpy(found.jacobian().to_dense())[: 4 * len(y)].reshape(len(y), 4, -1)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = [np.trace(J[i].T @ (np.diag(p[i]) - np.outer(p[i], p[i])) @ J[i]) / len(y) for i in (1, 2)]
    assert np.mean(every, axis=0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_in_every_framework(framework):
    A = operator(objective(framework, "wide and deep", "float64"), "hessian")
    found = specop.trace(A, rtol=0.3, data="part")
    assert found.method == "gradients"
    assert abs(found.estimate - numpy(A.to_dense()).trace()) <= 4.0 * found.standard_error
