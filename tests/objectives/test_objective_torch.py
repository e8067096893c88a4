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
from torch_cases import MODELS, WEIGHTS, close, exact, labels, outputs, params, principal, problem, split, spy

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
    close(H.to_dense(), hessian)
    close(H.to_dense(), hessian)
    assert objective.samples == 11 and H.is_symmetric
    # The path that the case is named after was taken.
    expected = {"tape": [Tape] * 3, "retained graph": [Untapeable] * 3}
    assert kinds == expected.get(path, kinds)
    assert path != "some kept" or [apply is None for apply in H._products._linear].count(True) in (1, 2)
    assert path != "recompute" or all(apply is None for apply in H._products._linear)


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


@pytest.mark.parametrize("with_criterion", [True, False])
def test_a_function_of_a_structure(with_criterion):
    batch = (torch.randn(11, 3).double(), labels(11))
    tree = params()

    def loss(p, batch):
        return F.cross_entropy(outputs(p, batch), batch[1])

    args = (outputs, F.cross_entropy) if with_criterion else (loss, None)
    objective = specop.objective(*args, split(batch, 7, 4), params=tree)
    theta = objective.flatten(tree)
    hessian = torch.autograd.functional.hessian(lambda theta: loss(objective.unflatten(theta), batch), theta)
    assert objective.n == 27 and len(objective.names) == 3
    close(objective.hessian().to_dense(), hessian)
    close(objective.hessian(theta).to_dense(), hessian)
    # A structure times the operator is a structure.
    product = objective.hessian() @ tree
    close(objective.flatten(product), hessian @ theta)
    assert product["layers"][1]["w"].shape == (3, 4)
    block = objective.restrict("layers.0.w")
    close(block.hessian().to_dense(), principal(objective, hessian, block.names))


def rosenbrock(x, _):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_rosenbrock():
    objective = specop.objective(rosenbrock, params=torch.ones(2).double())
    values = torch.linalg.eigvalsh(objective.hessian().to_dense())
    assert values.tolist() == pytest.approx([0.399361, 1001.60064], rel=1e-6)
    assert (objective.loss(), objective.samples) == (0, 1)
    ten = specop.objective(rosenbrock, params=torch.ones(10).double()).hessian()
    values = specop.eigsh(ten, k=10, tol=1e-8).eigenvalues
    assert values.sum() == pytest.approx(9018) and values[[0, -1]].tolist() == pytest.approx([0.498752, 1762.84088])


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
