"""Curvature matrices beyond the Hessian, against their definitions by torch's own derivatives."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import specop
from specop.errors import InvalidInputError, ParametersChangedError
from specop.testing import check_operator
from specop_torch.tape import Tape, Untapeable
from torch_cases import (
    MODELS,
    WEIGHTS,
    Cube,
    close,
    labels,
    operator,
    problem,
    reference,
    split,
    spy,
)

KNOWN = {"tied": "categorical", "tokens": "categorical"}
PATHS = ["tape", "recompute", "retained graph"]


def make(name, path="tape", monkeypatch=None, **keywords):
    model, criterion, batch = problem(name)
    if path == "retained graph":
        spy(monkeypatch, untapeable=True)
    return specop.objective(
        model,
        criterion,
        split(batch, 5, 4, 2),
        likelihood=KNOWN.get(name),
        weight=WEIGHTS.get(name),
        memory_budget=0 if path == "recompute" else 2**30,
        **keywords,
    )


def multiplies(A, expected):
    """Assert that an operator is this matrix, by products with random vectors, twice: recorded and replayed."""
    V = torch.randn(A.shape[1], 2, generator=torch.Generator().manual_seed(0)).double()
    for _ in range(2):
        close(A @ V, expected @ V)


# --- Definitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MODELS)
def test_ggn(name, path, monkeypatch):
    _, J, _, H = reference(*problem(name))
    G = make(name, path, monkeypatch).ggn()
    assert G.is_psd and G.is_symmetric and G.samples == 11
    multiplies(G, J.T @ H @ J)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MODELS)
def test_the_exact_fisher_is_the_ggn_of_a_likelihood(name, path, monkeypatch):
    _, J, _, H = reference(*problem(name))
    exact = make(name, path, monkeypatch).fisher()
    assert exact.is_psd
    multiplies(exact, J.T @ H @ J)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [name for name in MODELS if name != "tied"])
def test_empirical_fisher_and_covariance(name, path, monkeypatch):
    model, criterion, batch = problem(name)
    z, J, r, _ = reference(model, criterion, batch)
    # By sample: what it adds to the gradient, times the number of samples.
    rows = 11 * (r.reshape(11, -1, 1) * J.reshape(11, z.numel() // 11, -1)).sum(1)
    objective = make(name, path, monkeypatch)
    close(rows.mean(0), objective.gradient())
    empirical = objective.fisher(kind="empirical", of="samples")
    covariance = objective.gradient_covariance()
    assert empirical.is_psd and covariance.is_psd
    multiplies(empirical, rows.T @ rows / 11)
    multiplies(covariance, torch.cov(rows.T, correction=0))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MODELS)
def test_jacobian(name, path, monkeypatch):
    _, expected, _, _ = reference(*problem(name))
    J = make(name, path, monkeypatch).jacobian()
    assert J.shape == tuple(expected.shape) and J.is_symmetric is False
    multiplies(J, expected)
    multiplies(J.T, expected.T)
    kernel = J @ J.T
    assert kernel.is_psd
    multiplies(kernel, expected @ expected.T)


def test_a_linear_model_has_its_ggn_as_hessian():
    torch.manual_seed(0)
    for criterion, y in [(F.cross_entropy, labels(9)), (F.mse_loss, torch.randn(9, 4).double())]:
        objective = specop.objective(nn.Linear(3, 4).double(), criterion, (torch.randn(9, 3).double(), y))
        close(objective.ggn().to_dense(), objective.hessian().to_dense())
        close(objective.fisher().to_dense(), objective.hessian().to_dense())


def test_a_criterion_that_is_not_convex_has_a_ggn_of_unknown_sign():
    model, _, batch = problem("regression")

    def criterion(z, y):
        return torch.cos(z - y).mean()

    _, J, _, H = reference(model, criterion, batch)
    G = specop.objective(model, criterion, batch).ggn()
    assert G.is_psd is None
    close(G.to_dense(), J.T @ H @ J)


@pytest.mark.parametrize("kind", ["ggn", "fisher", "empirical", "mc", "jacobian"])
def test_at_another_point(kind):
    model, criterion, batch = problem("mlp")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.3 * torch.randn_like(p))
    objective, moved = specop.objective(model, criterion, batch), specop.objective(other, criterion, batch)
    theta = moved.theta
    expected = operator(moved, kind).to_dense()
    at = operator(objective, kind, theta)
    theta.zero_()
    close(at.to_dense(), expected)


# --- What cannot be ---------------------------------------------------------------------------------------------------

KINDS = ["ggn", "fisher", "mc", "empirical", "gradient_covariance", "jacobian"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_belongs_to_one_point(kind):
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    A = operator(objective, kind)
    before = A.to_dense()
    model[0].bias.data.add_(0.1)
    with pytest.raises(ParametersChangedError):
        A.to_dense()
    after = operator(objective, kind).to_dense()
    assert (after - before).norm() > 1e-6
    objective.release()
    close(operator(objective, kind).to_dense(), after)


def test_a_wrong_tape_is_noticed_and_not_used(monkeypatch):
    expected = {kind: operator(make("mlp"), kind).to_dense() for kind in KINDS}
    replay = Tape.replay
    monkeypatch.setattr(Tape, "replay", lambda self, x: [2 * part for part in replay(self, x)])
    for kind in KINDS:
        A = operator(make("mlp"), kind)
        for B, dense in ((A, expected[kind]), (A.T, expected[kind].T)):
            columns = torch.randn(B.shape[1], 3).double()
            close(B @ columns, dense @ columns)


def test_everything_is_taped(monkeypatch):
    kinds = spy(monkeypatch)
    for name in MODELS:
        for kind in KINDS:
            if (name, kind) not in [("tied", "empirical"), ("tied", "gradient_covariance")]:
                A = operator(make(name), kind)
                A @ torch.ones(A.shape[1]).double()
    assert kinds and Untapeable not in kinds


def test_a_criterion_that_ignores_the_outputs():
    model, _, batch = problem("mlp")
    objective = specop.objective(model, lambda z, y: z.detach().sum(), batch)
    with pytest.raises(InvalidInputError, match=r"does not depend on the outputs: look for detach"):
        objective.ggn().to_dense()


def test_functions_without_a_second_derivative_have_a_transposed_jacobian():
    params = {"x": torch.linspace(1, 2, 3).double()}
    objective = specop.objective(lambda p, _: Cube.apply(p["x"]), lambda z, y: z.sum(), params=params)
    J = objective.jacobian()
    close(J.T @ torch.ones(3).double(), 3 * params["x"] ** 2)
    with pytest.raises(InvalidInputError, match="Cube is marked @once_differentiable"):
        J @ torch.ones(3).double()


def test_eigenvalues_of_the_ggn_are_those_of_the_kernel():
    model, criterion, batch = problem("regression")
    objective = specop.objective(model, criterion, batch)
    J = objective.jacobian()
    # The mean over all 33 entries, and the two of the square's derivative.
    top = specop.eigsh(J @ J.T, k=3, tol=1e-10).eigenvalues * 2 / 33
    np.testing.assert_allclose(specop.eigsh(objective.ggn(), k=3, tol=1e-10).eigenvalues, top, rtol=1e-9)


OPERATORS = {
    "ggn": lambda o: o.ggn(),
    "exact fisher": lambda o: o.fisher(kind="exact"),
    "sampled fisher": lambda o: o.fisher(kind="mc", draws=2),
    "empirical fisher": lambda o: o.fisher(kind="empirical", of="samples"),
    "jacobian": lambda o: o.jacobian(),
    "covariance": lambda o: o.gradient_covariance(),
    "differences": lambda o: o.finite_difference_hessian(),
    "blocks": lambda o: o.ggn().block_diagonal(),
    "coupling": lambda o: o.hessian().coupling(o.names[0], o.names[-1]),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_laws_of_operators(kind):
    check_operator(OPERATORS[kind](make("mlp")))
