"""Fisher matrices: what a criterion's likelihood is, and labels drawn from it."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import specop
from specop.errors import InvalidInputError
from torch_cases import WEIGHTS, close, labels, operator, problem, reference, split, token_loss

CRITERIA = {
    "class weights": (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.2, 3.0]).double()), labels(11), None),
    "label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), labels(11), None),
    "both": (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.2, 3.0]).double(), label_smoothing=0.2),
        labels(11),
        None,
    ),
    "ignored": (nn.CrossEntropyLoss(ignore_index=1), labels(11), None),
    "soft labels": (F.cross_entropy, torch.softmax(torch.arange(33.0).double().sin().reshape(11, 3), 1), None),
    "wrapped": (lambda z, y: F.cross_entropy(z, y), labels(11), "categorical"),
    "log-softmax": (lambda z, y: F.nll_loss(z.log_softmax(1), y), labels(11), "categorical"),
    "positive weight": (
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 0.5]).double()),
        F.one_hot(labels(11), 3).double(),
        None,
    ),
    "entry weights": (
        nn.BCEWithLogitsLoss(weight=torch.tensor([1.0, 0.0, 0.5]).double()),
        F.one_hot(labels(11), 3).double(),
        None,
    ),
    "squared error": (nn.MSELoss(), torch.ones(11, 3).double(), None),
    "half a squared error": (lambda z, y: 0.5 * (z - y).square().sum(1).mean(), torch.ones(11, 3).double(), "gaussian"),
}


@pytest.mark.parametrize("case", CRITERIA)
def test_what_a_criterion_does_besides_is_in_the_fisher(case):
    criterion, y, likelihood = CRITERIA[case]
    model, _, (x, _) = problem("mlp")
    _, J, _, H = reference(model, criterion, (x, y))
    objective = specop.objective(model, criterion, (x, y), likelihood=likelihood)
    close(objective.fisher().to_dense(), J.T @ H @ J)
    close(objective.ggn().to_dense(), J.T @ H @ J)


def test_classes_in_the_second_dimension():
    model, _, (x, y) = problem("tokens")
    transposed = nn.Sequential(model, Transpose())
    objective = specop.objective(transposed, F.cross_entropy, (x, y))
    close(
        objective.fisher().to_dense(),
        specop.objective(model, token_loss, (x, y), likelihood="categorical").fisher().to_dense(),
    )


class Transpose(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


SAMPLED = {
    "categorical": ("mlp", None),
    "bernoulli": ("wide and deep", None),
    "gaussian": ("regression", None),
    "tokens": ("tokens", "categorical"),
}


@pytest.mark.parametrize("case", SAMPLED)
def test_the_sampled_fisher_converges_to_the_exact_one(case):
    model, criterion, batch = problem(SAMPLED[case][0])
    objective = specop.objective(model, criterion, batch, likelihood=SAMPLED[case][1])
    expected = objective.fisher().to_dense()
    draws = torch.stack([objective.fisher(kind="mc", draws=20, seed=seed).to_dense() for seed in range(40)])
    # Every entry of the mean within five standard errors, and the errors as small as they should be.
    error = (draws.mean(0) - expected).abs()
    assert (error <= 5 * draws.std(0) / 40**0.5 + 1e-12).all()
    assert error.norm() < 0.1 * expected.norm()
    many = objective.fisher(kind="mc", draws=800).to_dense()
    assert (many - expected).norm() < 0.1 * expected.norm()
    one = objective.fisher(kind="mc").to_dense()
    assert (one - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("case", SAMPLED)
def test_draws_belong_to_seed_and_sample(case):
    model, criterion, batch = problem(SAMPLED[case][0])
    keywords = {"likelihood": SAMPLED[case][1], "weight": WEIGHTS.get(case)}
    first = specop.objective(model, criterion, split(batch, 5, 4, 2), **keywords)
    torch.rand(3)
    again = specop.objective(model, criterion, split(batch, 1, 3, 7), memory_budget=0, **keywords)
    F_ = first.fisher(kind="mc", draws=2, seed=5).to_dense()
    close(again.fisher(kind="mc", draws=2, seed=5).to_dense(), F_)
    assert (first.fisher(kind="mc", draws=2, seed=6).to_dense() - F_).norm() > 1e-3 * F_.norm()


def test_a_wrong_likelihood_is_noticed():
    model, criterion, (x, y) = problem("mlp")
    one_hot = F.one_hot(y, 3).double()
    with pytest.raises(InvalidInputError, match="the criterion's likelihood is categorical, not gaussian"):
        specop.objective(model, criterion, (x, y), likelihood="gaussian")
    objective = specop.objective(model, lambda z, y: F.huber_loss(z, one_hot), (x, y), likelihood="gaussian")
    for kind in ("fisher", "mc", "ggn"):
        with pytest.raises(InvalidInputError, match="not the negative log-likelihood of a gaussian variable"):
            operator(objective, kind).to_dense()


def test_wrong_arguments():
    model, criterion, batch = problem("mlp")
    for arguments, message in [
        ({"kind": "true"}, "kind must be 'exact', 'mc' or 'empirical', got 'true'"),
        ({"kind": "mc", "draws": 0}, "draws must be a positive integer, got 0"),
        ({"kind": "mc", "seed": -1}, "seed must be"),
        ({"theta": "mc"}, r"theta is a parameter vector, got 'mc'. Pass fisher\(kind='mc'\)"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            specop.objective(model, criterion, batch).fisher(**arguments)
