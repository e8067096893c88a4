"""Modules and losses of torch that make no Hessian: what the errors say."""

import functools
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import specop
from specop.errors import InvalidInputError, NonFiniteError
from torch_cases import labels, outputs, problem


def test_losses_that_are_no_mean():
    model, _, batch = problem("mlp")
    for criterion in (nn.CrossEntropyLoss(reduction="sum"), functools.partial(F.cross_entropy, reduction="sum")):
        for given in ({}, {"params": dict(model.named_parameters())}):
            with pytest.raises(InvalidInputError, match=r"reduction='sum'.*Use reduction='mean'"):
                specop.objective((lambda params, batch: None) if given else model, criterion, batch, **given)
    with pytest.raises(InvalidInputError, match="a module needs a criterion"):
        specop.objective(model, None, batch)
    objective = specop.objective(model, lambda outputs, y: outputs.sum().item(), batch)
    for call in (objective.loss, objective.gradient, objective.hessian().to_dense):
        with pytest.raises(InvalidInputError, match="must be one real number, the mean over the batch; got float"):
            call()


def test_the_mean_over_samples_of_a_divergence():
    """Of the Kullback-Leibler divergence "mean" divides by entries, and "batchmean" by samples."""
    model, _, (x, _) = problem("mlp")
    model, target = nn.Sequential(model, nn.LogSoftmax(-1)), torch.softmax(model(x), -1).detach().flip(0)
    batches = [(x[:2], target[:2]), (x[2:], target[2:])]
    criterion = nn.KLDivLoss(reduction="batchmean")
    for kind in (criterion, functools.partial(F.kl_div, reduction="batchmean")):
        assert float(specop.objective(model, kind, batches).loss()) == pytest.approx(criterion(model(x), target).item())


def test_parameters_that_are_not_finite_are_named():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    for call in (objective.loss, objective.gradient, objective.hessian().to_dense):
        with pytest.raises(NonFiniteError, match=r"loss is nan.*2\.weight\. Restore them from a checkpoint"):
            call()


def test_sparse_embeddings_are_refused_by_name():
    model = nn.Sequential(nn.Embedding(4, 3, sparse=True))
    with pytest.raises(InvalidInputError, match=r"layer '0' has sparse=True.*0\.sparse = False"):
        specop.objective(model, F.cross_entropy, (labels(5), labels(5)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_norm": 1.0}, r"layer '0' has max_norm=1.0: its forward pass writes to its weight.*0\.max_norm = None"),
        ({"scale_grad_by_freq": True}, r"layer '0' has scale_grad_by_freq=True: its gradient is that of no loss"),
    ],
)
def test_embeddings_that_are_no_functions_are_refused_by_name(setting, message):
    model = nn.Sequential(nn.Embedding(4, 3, **setting))
    before = model[0].weight.clone()
    with pytest.raises(InvalidInputError, match=message):
        specop.objective(model, F.cross_entropy, (labels(5), labels(5))).loss()
    assert torch.equal(model[0].weight, before)


def test_operations_without_a_second_derivative_are_explained():
    model = nn.Sequential(nn.EmbeddingBag(4, 3))
    objective = specop.objective(model, F.cross_entropy, (labels(6).reshape(3, 2), labels(3)))
    assert objective.gradient().any()
    with pytest.raises(InvalidInputError, match=r"no second derivative of an operation.*_embedding_bag_backward.*sum"):
        objective.hessian().to_dense()


@pytest.mark.parametrize("select", [None, "unused"])
def test_a_loss_without_parameters(select):
    model, criterion, batch = problem("mlp")
    model.register_parameter("unused", nn.Parameter(torch.ones(2).double()))
    forward = None if select else (lambda model, batch: model(batch[0]).detach())
    criterion = criterion if select else (lambda outputs, batch: F.cross_entropy(outputs, batch[1]))
    objective = specop.objective(model, criterion, batch, forward=forward, select=select)
    for call in (objective.gradient, objective.hessian().to_dense):
        with pytest.raises(InvalidInputError, match=r"loss does not depend on any of the .* selected.*detach\(\)"):
            call()


def test_wrong_structures():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    with pytest.raises(InvalidInputError, match=r"exactly its 4 selected names, such as '0.weight'; got list"):
        objective.flatten([1.0])
    wrong = dict(model.named_parameters()) | {"2.bias": torch.ones(4).double()}
    with pytest.raises(InvalidInputError, match=r"'2.bias' must be an array of shape \(3,\), got \(4,\)"):
        objective.hessian() @ wrong


def test_wrong_arguments():
    model, criterion, batch = problem("mlp")
    for arguments, keywords, message in [
        ((model, criterion, batch), {"params": torch.ones(2)}, "params= is for plain functions"),
        ((outputs, criterion, batch), {"params": [torch.ones(2), 1.0]}, "the parameter '1' is the Python number 1.0"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            specop.objective(*arguments, **keywords)


def test_a_model_without_trainable_parameters():
    model, criterion, batch = problem("mlp")
    with pytest.raises(InvalidInputError, match=r"none of the model's 4 parameters is trainable\. Call requires_grad_"):
        specop.objective(model.requires_grad_(False), criterion, batch)


def test_repr_says_what_it_is():
    model, criterion, batch = problem("mlp")
    assert repr(specop.objective(model, criterion, batch)) == "<Objective of 31 parameters in 4 arrays, float64, cpu>"


def test_no_warning_on_the_way():
    model, criterion, batch = problem("transformer")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        specop.objective(model, criterion, batch).hessian().to_dense()


class CubeOnce(torch.autograd.Function):
    """x^3 with a backward that cannot be differentiated, as fused kernels have it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def test_functions_without_a_second_derivative_are_refused():
    params = {"x": torch.linspace(1, 2, 3).double()}
    objective = specop.objective(lambda p, _: (CubeOnce.apply(p["x"]) + p["x"] ** 2).mean(), params=params)
    torch.testing.assert_close(objective.gradient(), params["x"] ** 2 + 2 * params["x"] / 3)
    with pytest.raises(InvalidInputError, match=r"CubeOnce is marked @once_differentiable"):
        objective.hessian().to_dense()


def test_a_gradient_does_not_flow_through_products():
    A = specop.DenseOperator(torch.eye(3, dtype=torch.float64))
    v = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(InvalidInputError, match="requires a gradient, which does not flow through products"):
        A @ v
    with torch.no_grad():
        torch.testing.assert_close(A @ v, v.detach())
