"""A model whose layers lie on several devices, as `device_map` puts them: the second one is torch's lazy CPU device."""

import copy

import numpy as np
import pytest
import torch
import torch._lazy.ts_backend
from torch import nn
from torch.nn import functional as F

import specop
import specop_torch.autodiff as module
import specop_torch.parameters as parameters
from specop_torch.tape import Untapeable

SAME = {"rtol": 1e-12, "atol": 1e-14}


class Chain(nn.Module):
    """Layers that move what they are given to their own device, as the hooks of a `device_map` do."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        for layer in (self.first, self.middle, self.last):
            x = torch.tanh(layer(x.to(layer.weight.device)))
        return x.cpu()


@pytest.fixture(scope="module")
def device():
    torch._lazy.ts_backend.init()
    return torch.device("lazy")


@pytest.fixture
def lazy(device, monkeypatch):
    # Its tensors have no memory that could be looked at, and views of them stay on it.
    checksums, split = parameters.checksums, module.TorchAutodiff._split
    monkeypatch.setattr(
        parameters, "checksums", lambda tensors: checksums([tensor.detach().cpu() for tensor in tensors])
    )
    monkeypatch.setattr(module, "record", lambda function, inputs: (function(inputs), Untapeable("lazy", [])))
    monkeypatch.setattr(module, "held_bytes", lambda constants, owned: 0)
    monkeypatch.setattr(
        module.TorchAutodiff,
        "_split",
        lambda self, vector: [piece.cpu().clone().to(piece.device) for piece in split(self, vector.cpu())],
    )
    return device


def criterion(outputs, y):
    return F.cross_entropy(outputs, y.to(outputs.device))


def numbers(x):
    return x.detach().cpu().numpy()


@pytest.mark.parametrize("on_lazy", [("first",), ("middle",), ("last",), ("first", "middle")])
def test_layers_on_several_devices(lazy, on_lazy):
    torch.manual_seed(0)
    own = Chain().double()
    net = copy.deepcopy(own)
    for name in on_lazy:
        getattr(net, name).to(lazy)
    data = [(torch.randn(6, 4).double(), torch.randint(3, (6,))), (torch.randn(5, 4).double(), torch.randint(3, (5,)))]
    spread, plain = (specop.objective(model, criterion, data, likelihood="categorical") for model in (net, own))
    # Vectors are where most of the parameters are.
    assert spread.theta.device.type == ("lazy" if len(on_lazy) > 1 else "cpu")
    v = torch.randn(plain.n, dtype=torch.float64)
    along = v.to(spread.theta.device)
    assert np.allclose(numbers(spread.loss()), numbers(plain.loss()), **SAME)
    assert np.allclose(numbers(spread.gradient()), numbers(plain.gradient()), **SAME)
    for name in ("hessian", "ggn", "fisher", "empirical fisher"):
        ours, theirs = spread.matrix(name), plain.matrix(name)
        for _ in range(2):
            assert np.allclose(numbers(ours @ along), numbers(theirs @ v), **SAME)
        assert ours.notes == theirs.notes
    drawn = [objective.fisher(kind="mc", draws=2) for objective in (spread, plain)]
    assert np.allclose(numbers(drawn[0] @ along), numbers(drawn[1] @ v), **SAME)
    J, K = spread.jacobian(), plain.jacobian()
    u = torch.randn(K.shape[0], dtype=torch.float64)
    assert np.allclose(numbers(J @ along), numbers(K @ v), **SAME)
    assert np.allclose(numbers(J.T @ u.to(along.device)), numbers(K.T @ u), **SAME)
    rows = [torch.cat([block.cpu() for block in objective.per_sample_gradients()]) for objective in (spread, plain)]
    assert np.allclose(*rows, **SAME)
    part = [objective.restrict("last").gradient() for objective in (spread, plain)]
    assert np.allclose(*map(numbers, part), **SAME)
    tree = spread.unflatten(along)
    assert {one.device for one in tree.values()} == {one.device for one in net.parameters()}
    assert np.array_equal(numbers(spread.flatten(tree)), v.numpy())
    with pytest.raises(specop.errors.InvalidInputError, match="must be on"):
        spread.hessian() @ v.to("cpu" if along.device.type == "lazy" else lazy)


def test_layers_on_the_meta_device_are_refused():
    net = Chain()
    net.last.to("meta")
    with pytest.raises(specop.errors.InvalidInputError, match=r"'last.weight' of the model is on the meta device"):
        specop.objective(net, F.cross_entropy, (torch.randn(6, 4), torch.randint(3, (6,))))
