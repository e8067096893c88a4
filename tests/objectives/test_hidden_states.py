"""Losses that are no functions: they draw, count or remember, which is named, and put back."""

import itertools
import random

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError, NondeterministicError

torch = pytest.importorskip("torch")
pytest.importorskip("jax")
tf = pytest.importorskip("tensorflow")

from flax import nnx
from torch import nn
from torch.nn import functional as F

import jax.numpy as jnp  # isort: skip
from loss_cases import (
    CHANGING,
    Hidden,
    KerasNet,
    X,
    Y,
    each_framework,
    expected,
    few_for_compiled,
    made,
    parts,
    squares,
    torch_model,
)

DRAWS = {
    "a counter": lambda: (count := itertools.count(1)) and (lambda: float(next(count))),
    "a private generator": lambda: np.random.default_rng(0).normal,
    "a fresh generator": lambda: lambda: np.random.default_rng().normal(),
    "a memory": lambda: (seen := []) is None or (lambda: float(seen.append(1) or len(seen))),
}


@pytest.mark.parametrize(("name", "case"), few_for_compiled(DRAWS, 2))
def test_functions_that_change_are_refused(name, case):
    draw = DRAWS[case]()
    found = made(name, squares, [(X, Y)], lambda xp, h: h * draw())
    with pytest.raises(NondeterministicError, match=CHANGING):
        found.loss()


@each_framework
def test_functions_that_count_but_do_not_change_are_taken(name):
    calls = []
    found = made(name, squares, [(X, Y)], lambda xp, h: h * float(bool(calls.append(1) or calls)))
    assert float(found.loss()) == pytest.approx(expected(squares, X, Y))


def counts(layer, h):
    layer.state += 1
    return h * layer.state


def averages(layer, h):
    layer.state.mul_(0.9).add_(h.detach().mean(), alpha=0.1)
    return h - layer.state


def remembers(layer, h):
    layer.state = layer.state * 0.9 + h.mean() * 0.1
    return h - layer.state


def collects(layer, h):
    layer.state.append(1.0)
    return h * len(layer.state)


HIDDEN = {
    "counter": (counts, lambda: 0),
    "average in place": (averages, lambda: torch.zeros(())),
    "average": (remembers, lambda: torch.zeros(())),
    "list": (collects, list),
    "torch.Generator": (lambda layer, h: h + torch.randn((), generator=layer.state), lambda: torch.Generator()),
    "numpy generator": (lambda layer, h: h * layer.state.normal(), lambda: np.random.default_rng(0)),
    "RandomState": (lambda layer, h: h * layer.state.normal(), lambda: np.random.RandomState(0)),
    "random.Random": (lambda layer, h: h * layer.state.random(), lambda: random.Random(0)),
}


def content(state):
    if isinstance(state, torch.Generator):
        return state.get_state().tolist()
    for reader in ("bit_generator", "get_state", "getstate"):
        if hasattr(state, reader):
            found = getattr(state, reader)
            return repr(found.state if reader == "bit_generator" else found())
    return state.item() if isinstance(state, torch.Tensor) else repr(state)


@pytest.mark.parametrize("case", HIDDEN)
def test_hidden_states_of_torch_modules_are_named_and_put_back(case):
    call, state = HIDDEN[case]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), Hidden(call, state()), nn.Linear(5, 3)).double().eval()
    before, place = content(model[1].state), model[1].state
    with pytest.raises(NondeterministicError, match=rf"{CHANGING}.*The model changes its own '1\.state'"):
        specop.objective(model, F.mse_loss, (torch.tensor(X), torch.tensor(Y))).hessian().to_dense()
    assert content(model[1].state) == before and model[1].state is place


def test_buffers_that_a_call_reads_and_updates_are_named():
    class Buffered(nn.Module):
        def __init__(self, call):
            super().__init__()
            self.register_buffer("state", torch.ones(()))
            self.call = call

        def forward(self, h):
            return self.call(self, h)

    def rebinds(layer, h):
        layer.state = layer.state + 1
        return h * layer.state

    def in_place(layer, h):
        return h * layer.state.add_(1)

    def unused(layer, h):
        layer.state.add_(1)
        return h

    data = torch.tensor(X), torch.tensor(Y)
    for call in (rebinds, in_place):
        model = torch_model(Buffered(call))
        with pytest.raises(NondeterministicError, match=rf"{CHANGING}.*changes its own '1\.state'"):
            specop.objective(model, F.mse_loss, data).loss()
        assert model[1].state == 1
    model = torch_model(Buffered(unused))
    assert float(specop.objective(model, F.mse_loss, data).loss()) == pytest.approx(
        F.mse_loss(model(data[0]), data[1]).item()
    )


def test_hidden_states_of_flax_modules_are_named_and_put_back():
    class Net(nnx.Module):
        def __init__(self, state, call):
            self.layer = nnx.Linear(4, 3, param_dtype=float, rngs=nnx.Rngs(0))
            self.state, self.call = state, call

        def __call__(self, x):
            return self.call(self, self.layer(x))

    def counted(layer, h):
        layer.state[...] += 1
        return h * layer.state[...]

    def averaged(layer, h):
        layer.state[...] = 0.9 * layer.state[...] + 0.1 * h.mean()
        return h - layer.state[...]

    def unused(layer, h):
        layer.state[...] += 1
        return h

    def loss(z, y):
        return jnp.mean((z - y) ** 2)

    data = jnp.asarray(X), jnp.asarray(Y)
    for call in (counted, averaged):
        model = Net(nnx.Variable(jnp.zeros(())), call)
        with pytest.raises(NondeterministicError, match=rf"{CHANGING}.*changes its own 'state'"):
            specop.objective(model, loss, data).loss()
        assert float(model.state[...]) == 0
    assert float(specop.objective(Net(nnx.Variable(jnp.zeros(())), unused), loss, data).loss()) > 0
    generator = np.random.default_rng(0)
    model = Net(generator, lambda layer, h: h * layer.state.normal())
    before = repr(generator.bit_generator.state)
    with pytest.raises(NondeterministicError, match=CHANGING):
        specop.objective(model, loss, data).loss()
    assert repr(generator.bit_generator.state) == before


class MergesOnce(nn.Module):
    """Keeps what it makes of its weight in the first call, as layers do that merge weights for inference."""

    def __init__(self):
        super().__init__()
        self.layer, self.merged = nn.Linear(4, 3).double(), None

    def forward(self, x):
        if self.merged is None:
            self.merged = self.layer.weight.exp()
        return x @ self.merged.T + self.layer.bias


@pytest.mark.parametrize("sizes", [(6,), (4, 2)], ids=["one batch", "two batches"])
def test_what_a_first_call_makes_of_parameters_is_named_and_put_back(sizes):
    data = [(torch.tensor(x), torch.tensor(y)) for x, y in parts(*sizes)]
    text = r"of 'layer.weight' it has the norm .* The model keeps 'merged' from one call to the next"
    for call in (
        lambda found: found.loss(),
        lambda found: found.gradient(),
        lambda found: found.hessian() @ found.theta,
        lambda found: found.ggn() @ found.theta,
    ):
        model = MergesOnce()
        with pytest.raises(InvalidInputError, match=text):
            call(specop.objective(model, F.mse_loss, data))
        assert model.merged is None


@pytest.mark.parametrize(
    ("call", "state"),
    [(counts, lambda: 0), (lambda layer, h: h * layer.state.normal(), lambda: np.random.default_rng(0))],
)
def test_hidden_states_of_keras_models_are_named_and_put_back(call, state):
    model = KerasNet(call, state())
    before = content(model.state)
    with pytest.raises(NondeterministicError, match=rf"{CHANGING}.*state'"):
        specop.objective(model, lambda z, y: tf.reduce_mean((z - y) ** 2), (X, Y)).loss()
    assert content(model.state) == before
