"""The first product of a Hessian is held against differences of the gradient: wrong ones raise, right ones never do."""

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError
from specop.objectives.point import Point
from specop.objectives.witness import Unverified, Verified, verify_hessian

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

WRONG = "products with the Hessian are not the derivative of the gradient"


def data(dtype=torch.float64, samples=6, features=4, classes=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.arange(samples) % classes


def mlp(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def verdict(objective):
    """What is found for the first batch, by the objective's own parts."""
    point = Point.of(objective._autodiff, objective._data, objective._budget)
    with objective._data.reading() as batches:
        return verify_hessian(point, next(batches)[0], None)


def by_differences(objective):
    """The Hessian by central differences of the loss's gradient, in float64."""
    theta, n = objective.theta, objective.n
    columns = [
        (objective.gradient(theta + 1e-6 * unit) - objective.gradient(theta - 1e-6 * unit)) / 2e-6
        for unit in torch.eye(n, dtype=theta.dtype)
    ]
    return torch.stack(columns, 1)


RIGHT = {
    "tanh": lambda: mlp(),
    "ReLU, max pooling": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4)),
        nn.Conv1d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    ),
    "layer norm": lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.LeakyReLU(), nn.Linear(6, 3)).eval(),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3)),
    "GRU": lambda: _Recurrent(),
}


class _Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(2, 4, batch_first=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.cell(x.unflatten(1, (2, 2)))[0][:, -1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", RIGHT)
def test_right_products_are_verified(name, dtype):
    torch.manual_seed(1)
    model = RIGHT[name]().to(dtype)
    found = verdict(specop.objective(model, F.cross_entropy, data(dtype)))
    assert isinstance(found, Verified), found
    assert found.deviation < (1e-4 if dtype == torch.float32 else 1e-6)


def test_a_model_that_casts_inside_is_not_taken_for_wrong():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return (self.layer(x).float() * 1.1).tanh().to(x.dtype)

    assert isinstance(verdict(specop.objective(Cast().double(), F.cross_entropy, data())), (Verified, Unverified))


def test_a_kink_at_the_point_is_not_taken_for_a_wrong_product():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    assert isinstance(verdict(specop.objective(model, F.cross_entropy, data())), Unverified)


def spectral():
    torch.manual_seed(1)
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 3)).double().train()
    for _ in range(300):
        model(data()[0])
    return model


class _Detached(torch.autograd.Function):
    """Computes its gradient in the forward pass, as fused losses do, under torch's own name so that nobody looks."""

    __module__ = "torch.disguised"

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(2 * z.tanh() * (1 - z.tanh() ** 2))
        return z.tanh() ** 2

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].detach()


@torch.library.custom_op("specop_tests::square_of_tanh", mutates_args=())
def square_of_tanh(z: torch.Tensor) -> torch.Tensor:
    return z.tanh() ** 2


def _setup(ctx, inputs, output):
    ctx.slope = (2 * inputs[0].tanh() * (1 - inputs[0].tanh() ** 2)).detach()


torch.library.register_autograd("specop_tests::square_of_tanh", lambda ctx, g: g * ctx.slope, setup_context=_setup)


class _Activation(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def between(function):
    return nn.Sequential(nn.Linear(4, 5), _Activation(function), nn.Linear(5, 3))


WRONG_MODELS = {
    "spectral normalization in training mode": spectral,
    "a custom function": lambda: between(_Detached.apply).double(),
    "a custom operation": lambda: between(square_of_tanh).double(),
    "in single precision": lambda: between(square_of_tanh),
    "a stopped gradient": lambda: between(lambda z: z.detach() * z).double(),
}


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_wrong_second_derivatives_raise(name):
    torch.manual_seed(2)
    model = WRONG_MODELS[name]()
    dtype = next(model.parameters()).dtype
    objective = specop.objective(model, F.cross_entropy, data(dtype))
    with pytest.raises(InvalidInputError, match=rf"{WRONG}.*in the rows of '[02]\.") as error:
        specop.eigsh(objective.hessian(), k=1)
    assert "finite_difference_hessian" in str(error.value)


def test_stopped_gradients_may_be_meant():
    def loss(params, batch):
        return (params["w"].detach() * params["w"] ** 2).sum()

    given = {"params": {"w": torch.ones(2, dtype=torch.float64)}, "data": torch.ones(1)}
    with pytest.raises(InvalidInputError, match=rf"{WRONG}.*off by 50 % .*'w'"):
        specop.objective(loss, **given).hessian().to_dense()
    accepted = specop.objective(loss, **given, accept_stopped_gradients=True)
    np.testing.assert_allclose(accepted.hessian().to_dense(), 2 * np.eye(2))
    np.testing.assert_allclose(accepted.restrict("w").hessian().to_dense(), 2 * np.eye(2))


def test_compiled_code_is_run_as_it_was_written():
    """Compiled criteria gave traces 58 % off, compiled losses a Hessian of zero."""
    x, y = data()
    model = mlp()
    expected = by_differences(specop.objective(model, F.cross_entropy, (x, y)))
    compiled = torch.compile(F.cross_entropy, backend="aot_eager")
    found = specop.objective(model, compiled, (x, y)).hessian().to_dense()
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    inside = nn.Sequential(model[0], _Activation(torch.compile(torch.tanh, backend="aot_eager")), model[2])
    found = specop.objective(inside, F.cross_entropy, (x, y)).hessian().to_dense()
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    model.compile(backend="aot_eager")
    found = specop.objective(model, F.cross_entropy, (x, y)).hessian().to_dense()
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_operations_without_a_second_derivative_are_named():
    model = nn.Sequential(nn.Linear(4, 3), _Activation(lambda z: torch.cdist(z, z.detach() + 1.0))).double()
    with pytest.raises(InvalidInputError, match=r"torch has no second derivative .* plain operations"):
        specop.objective(model, F.cross_entropy, data()).hessian() @ torch.ones(15, dtype=torch.float64)
