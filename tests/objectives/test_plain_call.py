"""The gradient is that of the plain call: with its hooks, checkpoints and masks, and nothing of the user's touched."""

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError

torch = pytest.importorskip("torch")
pytest.importorskip("jax")
tf = pytest.importorskip("tensorflow")

import keras
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from loss_cases import X, Y, torch_model


class Checkpointed(nn.Module):
    """Frozen inputs and trained blocks behind a checkpoint, as adapters of large models are trained."""

    def __init__(self, reentrant, head=True):
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.block, self.last = nn.Linear(4, 4), nn.Linear(4, 3).requires_grad_(head)
        self.reentrant = reentrant

    def forward(self, x):
        h = self.frozen(x).detach().requires_grad_(True)
        return self.last(checkpoint(lambda z: z + torch.tanh(self.block(z)), h, use_reentrant=self.reentrant))


def after_backward(model, data):
    F.mse_loss(model(data[0]), data[1]).backward()
    found = torch.cat([one.grad.reshape(-1) for one in model.parameters() if one.requires_grad])
    model.zero_grad()
    return found


@pytest.mark.parametrize("head", [True, False])
def test_reentrant_checkpoints_that_hide_parameters_are_refused(head):
    torch.manual_seed(0)
    data = torch.tensor(X), torch.tensor(Y)
    with pytest.raises(InvalidInputError, match=r"'block\.weight', 'block\.bias' .*norm 0, .*use_reentrant=False"):
        specop.objective(Checkpointed(True, head).double(), F.mse_loss, data).gradient()
    # Where the inputs have derivatives, torch runs backward inside of the checkpoint and stops.
    model = nn.Sequential(nn.Linear(4, 4), Checkpointed(True, head)).double()
    model[1].frozen = nn.Identity()
    model[1].forward = lambda x: model[1].last(checkpoint(model[1].block, x, use_reentrant=True))
    objective = specop.objective(model, F.mse_loss, data)
    for call in (objective.gradient, lambda: objective.ggn() @ objective.theta, objective.per_sample_gradients):
        with pytest.raises(InvalidInputError, match=r"use_reentrant=True, which calls backward.*use_reentrant=False"):
            list(call())
    model = Checkpointed(False, head).double()
    found = specop.objective(model, F.mse_loss, data)
    torch.testing.assert_close(found.gradient(), after_backward(model, data))
    assert np.isfinite(np.asarray(found.hessian().to_dense())).all()


@pytest.mark.parametrize("hook", [lambda g: g * 0.5, lambda g: g * (g > 0), lambda g: torch.zeros_like(g)])
def test_hooks_that_change_gradients_are_refused(hook):
    model = torch_model(nn.Tanh())
    model[0].weight.register_hook(hook)
    found = specop.objective(model, F.mse_loss, (torch.tensor(X), torch.tensor(Y)))
    with pytest.raises(InvalidInputError, match=r"gradient .* not the one that training sees: of '0\.weight'.*Hooks"):
        found.gradient()
    others = specop.objective(model, F.mse_loss, (torch.tensor(X), torch.tensor(Y)), select=["0.bias", "2"])
    assert torch.isfinite(others.gradient()).all()


def test_gradients_hooks_and_buffers_of_the_user_are_left_alone():
    model, anchor, seen, stepped = torch_model(nn.Tanh()), torch.ones(3, requires_grad=True), [], []
    model[2].requires_grad_(True)
    model[0].weight.register_hook(lambda g: seen.append(1))
    for one in model.parameters():
        one.grad = torch.full_like(one, 7.0)
        one.register_post_accumulate_grad_hook(lambda one: stepped.append(1))
    anchor.grad = torch.full_like(anchor, 7.0)
    data = torch.tensor(X), torch.tensor(Y)
    found = specop.objective(model, lambda z, y: F.mse_loss(z * anchor, y), data, select="0")
    torch.testing.assert_close(found.gradient().norm() > 0, torch.tensor(True))
    assert all((one.grad == 7).all() for one in (*model.parameters(), anchor))
    assert not stepped


@pytest.mark.parametrize("matrix", ["ggn", "hessian"])
def test_masks_of_keras_reach_the_criterion(matrix):
    """A linear model, whose Gauss-Newton matrix is its Hessian; what a layer has masked counts in neither."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 5, 4)), rng.integers(0, 3, (4, 5))
    x[2:, 3:] = 0.0
    model = keras.Sequential(
        [
            keras.Input((5, 4), dtype="float64"),
            keras.layers.Masking(dtype="float64"),
            keras.layers.Dense(3, dtype="float64"),
        ]
    )
    criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    found = getattr(specop.objective(model, criterion, (x, y)), matrix)().to_dense()
    keep = x.any(-1).reshape(-1)
    inputs = np.concatenate([x.reshape(-1, 4), np.ones((20, 1))], 1)[keep]
    weights = np.concatenate([np.asarray(one) for one in (model.weights[0], model.weights[1][None])])
    p = np.exp(inputs @ weights)
    p /= p.sum(1, keepdims=True)
    truth = sum(
        np.kron(np.outer(row, row), np.diag(q) - np.outer(q, q)) for row, q in zip(inputs, p, strict=True)
    ) / len(inputs)
    np.testing.assert_allclose(found, truth, atol=1e-10)
