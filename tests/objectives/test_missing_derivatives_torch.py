"""Operations that torch differentiates twice wrongly, or not at all: right all the same, or refused by name.

What torch itself computes is no reference here; central differences of its gradients are.
"""

import copy

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import specop
from specop.errors import InvalidInputError

X = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(7) % 3


def model_with(layer, width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4, dtype=torch.float64), layer, nn.Linear(width, 3, dtype=torch.float64))


def check_products(model, criterion=F.cross_entropy, data=(X, Y), tol=1e-6):
    """Compare the first product, which is recorded, and the second with differences of torch's own gradients."""
    H = specop.objective(model, criterion, data).hessian()
    torch.manual_seed(1)
    v = torch.randn(H.shape[0], dtype=torch.float64) / H.shape[0] ** 0.5
    step = 1e-5
    difference = (own_gradient(model, criterion, data, step * v) - own_gradient(model, criterion, data, -step * v)) / (
        2 * step
    )
    for _ in range(2):
        torch.testing.assert_close(H @ v, difference, rtol=0, atol=tol * float(difference.abs().max()))


def own_gradient(model, criterion, data, shift):
    moved = copy.deepcopy(model)
    parameters = list(moved.parameters())
    with torch.no_grad():
        for parameter, part in zip(parameters, shift.split([p.numel() for p in parameters]), strict=True):
            parameter += part.view(parameter.shape)
    loss = criterion(moved(data[0]), data[1])
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, x):
        return checkpoint(lambda x: torch.tanh(self.inner(x)), x, use_reentrant=False)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_weights_that_are_normalized(norm):
    model = model_with(nn.Sequential(nn.Tanh(), norm(nn.Linear(4, 4, dtype=torch.float64)), nn.Tanh()))
    check_products(model.eval())


@pytest.mark.parametrize("layer", [nn.Softsign(), nn.Hardtanh(), nn.PReLU(dtype=torch.float64), Checkpointed()])
def test_layers(layer):
    check_products(model_with(layer))


def test_a_derivative_that_torch_knows_to_be_zero():
    # The sign in it has one, without memory.
    model = model_with(nn.Tanh())
    check_products(model, lambda outputs, y: F.l1_loss(torch.sin(outputs), torch.ones_like(outputs) * 3), (X, Y))


def test_the_padding_row_of_an_embedding_is_a_constant():
    tokens = torch.tensor([[0, 1], [2, 3], [3, 0]])
    model = nn.Sequential(
        nn.Embedding(5, 2, padding_idx=0, dtype=torch.float64), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    with torch.no_grad():
        model[0].weight[0] = 0.5
    dense = specop.objective(model, F.cross_entropy, (tokens, torch.arange(3))).hessian().to_dense()
    plain = copy.deepcopy(model)
    plain[0].padding_idx = None
    expected = specop.objective(plain, F.cross_entropy, (tokens, torch.arange(3))).hessian().to_dense()
    expected[:2] = expected[:, :2] = 0
    torch.testing.assert_close(dense, expected)


@pytest.mark.parametrize(
    ("layer", "criterion", "name"),
    [
        (nn.Hardsigmoid(), F.cross_entropy, "hardsigmoid_backward"),
        (nn.Tanh(), F.multi_margin_loss, "multi_margin_loss_backward"),
        (nn.Tanh(), lambda z, y: torch.cdist(z, z.detach() + 1.0).mean(), "_cdist_backward"),
    ],
)
def test_an_operation_without_a_second_derivative_is_named(layer, criterion, name):
    objective = specop.objective(model_with(layer), criterion, (X, Y))
    with pytest.raises(InvalidInputError, match=f"torch has no second derivative of an operation.*{name}"):
        objective.hessian() @ torch.ones(objective.n, dtype=torch.float64)


def test_products_of_several_zeros_are_refused_by_name():
    places = torch.tensor([0, 0, 1])

    def loss(w, batch):
        return (torch.ones(2, dtype=w.dtype).scatter_reduce(0, places, w, "prod") ** 2).sum() + 0.0 * batch.sum()

    objective = specop.objective(loss, params=torch.zeros(3, dtype=torch.float64), data=torch.zeros(1, 1))
    with pytest.raises(InvalidInputError, match=r"torch has no second derivative .*when >1 zeros in src"):
        specop.eigsh(objective.hessian(), k=1)
