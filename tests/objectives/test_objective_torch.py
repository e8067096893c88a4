"""Objectives on small real models: right answers on every path."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import specop
import specop_torch.autodiff as module
from specop.objectives.autodiff import HESSIAN
from specop.testing import check_objective
from specop_torch.tape import Tape, Untapeable
from torch_cases import MODELS, WEIGHTS, close, exact, principal, problem, split, spy

# --- Right answers on every path --------------------------------------------------------------------------------------

PATHS = ["tape", "recompute", "some kept", "retained graph"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_laws_of_an_objective(name, dtype):
    model, criterion, batch = problem(name)
    hessian = exact(model, criterion, batch)[2].numpy()
    model, batch = model.to(dtype), tuple(part.to(dtype) if part.is_floating_point() else part for part in batch)
    objective = specop.objective(model, criterion, split(batch, 5, 4, 2), weight=WEIGHTS.get(name))
    moving = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    check_objective(objective, params=moving, dense=hessian)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_those_of_torch(name, path, monkeypatch):
    model, criterion, batch = problem(name)
    loss, gradient, hessian = exact(model, criterion, batch)
    kinds = spy(monkeypatch, untapeable=path == "retained graph")
    batches = split(batch, 5, 4, 2)
    budget = {"recompute": 0, "some kept": held(model, criterion, batches[0])}.get(path, 2**30)
    objective = specop.objective(model, criterion, batches, memory_budget=budget, weight=WEIGHTS.get(name))
    close(objective.loss(), loss)
    close(objective.gradient(), gradient)
    H = objective.hessian()
    kinds.clear()
    # The first product checks itself, the next ones do not.
    for columns in torch.randn(2, objective.n, 3).double():
        close(H @ columns, hessian @ columns)
    assert objective.samples == 11 and H.is_symmetric
    # The path that the case is named after was taken.
    expected = {"tape": [Tape] * 3, "retained graph": [Untapeable] * 3}
    assert kinds == expected.get(path, kinds)
    assert path != "some kept" or H.plan().recomputed in (1, 2)
    assert path != "recompute" or H.plan().linearized == 0


def held(model, criterion, batch):
    """Bytes that the linearization of a batch takes."""
    autodiff = module.make_autodiff(model, criterion)
    return autodiff.linearize(None, batch, torch.ones(autodiff.layout.n).double(), HESSIAN).bytes


@pytest.mark.parametrize("name", MODELS)
def test_hessian_at_another_point(name):
    model, criterion, batch = problem(name)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    loss, gradient, hessian = exact(other, criterion, batch)
    objective = specop.objective(model, criterion, batch)
    theta = torch.cat([p.detach().flatten() for p in other.parameters() if p.requires_grad])
    close(objective.loss(theta), loss)
    close(objective.gradient(theta), gradient)
    close(objective.hessian(theta).to_dense(), hessian)


@pytest.mark.parametrize("kind", ["parametrization", "hook"])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_normalization(kind, dim):
    """Torch's own second derivative of it, of the fused kernel, is not even symmetric."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 4).double()
    if kind == "parametrization":
        layer = torch.nn.utils.parametrizations.weight_norm(layer, dim=dim)
    else:
        with pytest.warns(FutureWarning, match="weight_norm"):
            layer = torch.nn.utils.weight_norm(layer, dim=dim)
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3).double())
    _, criterion, (x, y) = problem("mlp")
    objective = specop.objective(model, criterion, (x, y))
    bias, g, v, *head = objective.unflatten(objective.theta).values()

    def loss(g, v):
        weight = v * g / (v.norm() if dim is None else v.norm(dim=1 - dim, keepdim=True))
        return criterion(F.linear(torch.tanh(F.linear(x, weight, bias)), *head), y)

    blocks = torch.autograd.functional.hessian(loss, (g, v))
    rows = [
        torch.cat([block.reshape(len(p.flatten()), -1) for block in row], 1)
        for p, row in zip((g, v), blocks, strict=True)
    ]
    expected = torch.cat(rows)
    names = objective.names[1:3]
    for _ in range(2):
        close(principal(objective, objective.hessian().to_dense(), names), expected)


def test_a_wrong_tape_is_noticed_and_not_used(monkeypatch):
    model, criterion, batch = problem("mlp")
    hessian = exact(model, criterion, batch)[2]
    replay = Tape.replay
    monkeypatch.setattr(Tape, "replay", lambda self, x: [2 * part for part in replay(self, x)])
    H = specop.objective(model, criterion, batch).hessian()
    close(H.to_dense(), hessian)


# --- Functions of a structure -----------------------------------------------------------------------------------------


# --- Precision --------------------------------------------------------------------------------------------------------


def test_a_bfloat16_model_has_float32_vectors():
    model, criterion, (x, y) = problem("mlp")
    hessian = exact(model, criterion, (x, y))[2].float()
    H = specop.objective(model.bfloat16(), criterion, (x.bfloat16(), y)).hessian()
    v = torch.ones(31)
    assert H.dtype == np.float32 and H.precision == torch.finfo(torch.bfloat16).eps
    for _ in range(2):
        product = H @ v
        assert product.dtype == torch.float32
        close(product, hessian @ v, 0.05)
