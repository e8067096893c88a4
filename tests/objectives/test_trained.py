"""The loss is the one that is trained: a function, with the gradient of the plain call, to which batches add up."""

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError, NondeterministicError

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
tf = pytest.importorskip("tensorflow")

import equinox as eqx
import keras
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import jax.numpy as jnp  # isort: skip

X = np.random.default_rng(0).normal(size=(6, 4))
Y = np.random.default_rng(1).normal(size=(6, 3)) * np.linspace(1, 3, 6)[:, None]
PARAMS = {"a": np.random.default_rng(2).normal(size=(4, 5)), "b": np.random.default_rng(3).normal(size=(5, 3))}
COUPLED = "several batches do not add up to the loss on all data"
CHANGING = "two calls of the loss on the same batch give"

# The few functions that losses below are made of, in each framework and in NumPy, which says what is true.
numpy = SimpleNamespace(
    array=lambda x: x,
    tanh=np.tanh,
    exp=np.exp,
    log=np.log,
    sqrt=np.sqrt,
    abs=np.abs,
    sum=np.sum,
    mean=np.mean,
    max=np.max,
)
FRAMEWORKS = {
    "torch": SimpleNamespace(
        array=lambda x: torch.tensor(x),
        tanh=torch.tanh, exp=torch.exp, log=torch.log, sqrt=torch.sqrt, abs=torch.abs,
        sum=lambda x, axis=None: x.sum() if axis is None else x.sum(axis),
        mean=lambda x, axis=None: x.mean() if axis is None else x.mean(axis),
        max=torch.max,
    ),
    "jax": SimpleNamespace(
        array=jnp.asarray, tanh=jnp.tanh, exp=jnp.exp, log=jnp.log, sqrt=jnp.sqrt, abs=jnp.abs, sum=jnp.sum,
        mean=jnp.mean, max=jnp.max,
    ),
    "tensorflow": SimpleNamespace(
        array=tf.constant, tanh=tf.tanh, exp=tf.exp, log=tf.math.log, sqrt=tf.sqrt, abs=tf.abs, sum=tf.reduce_sum,
        mean=tf.reduce_mean, max=tf.reduce_max,
    ),
}  # fmt: skip
each_framework = pytest.mark.parametrize("name", FRAMEWORKS)


def plain(xp, z):
    return z


def outputs(xp, params, x, middle=plain):
    return middle(xp, xp.tanh(x @ params["a"])) @ params["b"]


def squares(xp, z, y):
    return xp.mean((z - y) ** 2)


def similarities(xp, z):
    return xp.sum(z[:, None, :] * z[None, :, :], -1)


ADDITIVE = {
    "mean": squares,
    "sums of samples": lambda xp, z, y: xp.mean(xp.sum(xp.abs(z - y), -1)),
    "mean and constant": lambda xp, z, y: squares(xp, z, y) + 0.5,
    "likelihood": lambda xp, z, y: xp.mean(xp.log(xp.sum(xp.exp(z), -1)) - z[:, 0]),
}
NOT_ADDITIVE = {
    "sum": lambda xp, z, y: xp.sum((z - y) ** 2),
    "root of a mean": lambda xp, z, y: xp.sqrt(squares(xp, z, y)),
    "weighted mean": lambda xp, z, y: xp.sum(y**2 * (z - y) ** 2) / xp.sum(y**2),
    "ratio of sums": lambda xp, z, y: 1 - xp.sum(z * y) / xp.sum(z**2 + y**2),
    "contrastive": lambda xp, z, y: xp.mean(
        xp.log(xp.sum(xp.exp(similarities(xp, z) / 9), -1)) - xp.sum(z * z, -1) / 9
    ),
    "largest": lambda xp, z, y: xp.max(xp.abs(z - y)),
}
COUPLING = {
    "centred": lambda xp, h: h - xp.mean(h, 0),
    "scaled": lambda xp, h: h / xp.sqrt(xp.mean(h**2, 0)),
    "attention over samples": lambda xp, h: similarities(xp, h) @ h,
}


def made(name, criterion, data, middle=plain, **keywords):
    xp = FRAMEWORKS[name]
    data = [tuple(map(xp.array, batch)) for batch in data]
    return specop.objective(
        lambda params, batch: outputs(xp, params, batch[0], middle),
        lambda z, y: criterion(xp, z, y),
        data if len(data) > 1 else data[0],
        params={key: xp.array(value) for key, value in PARAMS.items()},
        **keywords,
    )


def parts(*sizes):
    ends = np.cumsum(sizes)[:-1]
    return list(zip(np.split(X, ends), np.split(Y, ends), strict=True))


def expected(criterion, x, y, middle=plain):
    return criterion(numpy, outputs(numpy, PARAMS, x, middle), y)


def few_for_compiled(cases, first):
    """All cases in torch, where nothing is compiled, and the first of them elsewhere in a quick run."""
    return [
        pytest.param(name, case, marks=[pytest.mark.slow] if name != "torch" and i >= first else [])
        for name in FRAMEWORKS
        for i, case in enumerate(cases)
    ]


# --- Several batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "case"), few_for_compiled(ADDITIVE, 2))
def test_batches_add_up(name, case):
    criterion = ADDITIVE[case]
    found = made(name, criterion, parts(4, 2))
    assert float(found.loss()) == pytest.approx(expected(criterion, X, Y), rel=1e-12)


@pytest.mark.parametrize(("name", "case"), few_for_compiled(NOT_ADDITIVE, 2))
def test_batches_that_do_not_add_up_are_refused(name, case):
    criterion, batches = NOT_ADDITIVE[case], parts(4, 2)
    with pytest.raises(InvalidInputError, match=rf'{COUPLED}.*weight=lambda.*batches="as given"'):
        made(name, criterion, batches).loss()
    # One batch is what it is, and so are several if that is meant.
    assert float(made(name, criterion, [(X, Y)]).loss()) == pytest.approx(expected(criterion, X, Y), rel=1e-12)
    mean = np.mean([expected(criterion, *batch) for batch in batches])
    assert float(made(name, criterion, batches, batches="as given").loss()) == pytest.approx(mean, rel=1e-12)


def test_the_second_batch_is_looked_at_too():
    """The weights of the first one are equal, as where only some batches are padded."""
    first, second = parts(4, 2)
    batches = [(first[0], np.ones_like(first[1])), second]
    with pytest.raises(InvalidInputError, match=rf"{COUPLED}: that of batch 1"):
        made("torch", NOT_ADDITIVE["weighted mean"], batches).gradient()
    weight = {"weight": lambda batch: (batch[1] ** 2).sum()}
    found = made("torch", NOT_ADDITIVE["weighted mean"], batches, **weight)
    whole = np.concatenate([batches[0][1], batches[1][1]])
    assert float(found.loss()) == pytest.approx(expected(NOT_ADDITIVE["weighted mean"], X, whole))


@pytest.mark.parametrize(("name", "case"), few_for_compiled(COUPLING, 1))
def test_coupled_samples_are_no_samples(name, case):
    middle = COUPLING[case]
    with pytest.raises(InvalidInputError, match=COUPLED):
        made(name, squares, parts(4, 2), middle).loss()
    found = made(name, squares, [(X, Y)], middle)
    assert float(found.loss()) == pytest.approx(expected(squares, X, Y, middle), rel=1e-12)
    for call in (lambda: found.fisher(kind="empirical") @ found.theta, lambda: next(found.per_sample_gradients())):
        with pytest.raises(InvalidInputError, match="depend on the rest of their batch"):
            call()


@each_framework
def test_models_of_one_batch_size(name):
    def fixed(xp, h):
        assert h.shape[0] == 3
        return h

    found = made(name, squares, parts(3, 3), fixed)
    assert float(found.loss()) == pytest.approx(expected(squares, X, Y), rel=1e-12)
    assert np.isfinite(np.asarray(found.hessian().to_dense())).all()
    with pytest.raises(InvalidInputError, match=COUPLED):
        made(name, NOT_ADDITIVE["contrastive"], parts(3, 3), fixed).loss()


def test_what_batches_may_be():
    with pytest.raises(InvalidInputError, match='batches must be "as given" or left out, got 32'):
        made("torch", squares, parts(4, 2), batches=32)
    found = made("torch", squares, parts(4, 2), batches="as given", weight=lambda batch: 3.0 - len(batch[0]) / 2)
    losses = [expected(squares, *batch) for batch in parts(4, 2)]
    assert float(found.loss()) == pytest.approx((losses[0] + 2 * losses[1]) / 3)


# --- What batches count by --------------------------------------------------------------------------------------------


def of_dicts(name, dicts, **keywords):
    xp = FRAMEWORKS[name]
    return specop.objective(
        lambda params, batch: squares(xp, outputs(xp, params, batch["x"]), batch["y"]),
        params={key: xp.array(value) for key, value in PARAMS.items()},
        data=[{key: xp.array(value) for key, value in batch.items()} for batch in dicts],
        **keywords,
    )


@each_framework
def test_samples_are_what_most_arrays_have(name):
    batches = [{"adjacency": np.eye(5), "x": x, "y": y} for x, y in parts(4, 2)]
    found = of_dicts(name, batches)
    assert found.samples == 6
    assert float(found.loss()) == pytest.approx(expected(squares, X, Y), rel=1e-12)
    doubtful = [{"table": np.ones(7), "x": x, "y": np.zeros(())} for x, _ in parts(4, 2)]
    with pytest.raises(InvalidInputError, match="leading dimensions of the arrays in batch 0 are 7 and 4"):
        of_dicts(name, doubtful).loss()
    found = of_dicts(name, doubtful, weight=lambda batch: batch["x"].shape[0])
    assert float(found.loss()) == pytest.approx(expected(squares, X, 0.0), rel=1e-12)


@each_framework
def test_an_array_that_only_happens_to_be_as_long_as_the_batch(name):
    """Weights of three classes in batches of three samples: slices of them are no weights."""
    xp = FRAMEWORKS[name]

    def loss(params, batch):
        return xp.mean((outputs(xp, params, batch["x"]) - batch["y"]) ** 2 * batch["w"])

    batches = [{"x": x, "y": y, "w": np.array([1.0, 5.0, 0.2])} for x, y in parts(3, 3)]
    given = {"params": {key: xp.array(value) for key, value in PARAMS.items()}}
    given["data"] = [{key: xp.array(value) for key, value in batch.items()} for batch in batches]
    with pytest.raises(InvalidInputError, match=COUPLED):
        specop.objective(loss, **given).loss()


@each_framework
def test_entries_of_other_shapes_are_refused_where_they_may_be_what_counts(name):
    """Sentences of other lengths: whether the criterion divides by sentences or by tokens is not known."""
    xp = FRAMEWORKS[name]
    rng = np.random.default_rng(0)
    batches = [tuple(rng.normal(size=(2, 2, length, 1))) for length in (3, 5)]
    given = {"params": {"w": xp.array(np.array(0.5))}}
    given["data"] = [tuple(map(xp.array, batch)) for batch in batches]

    def loss(params, batch):
        return xp.mean((params["w"] * batch[0] - batch[1]) ** 2)

    with pytest.raises(InvalidInputError, match=r"entries of the arrays in batch 1 .*\(5, 1\).*\(3, 1\).*tokens"):
        specop.objective(loss, **given).loss()
    found = specop.objective(loss, **given, weight=lambda batch: batch[1].shape[0] * batch[1].shape[1])
    whole = np.concatenate([np.ravel(0.5 * x - y) for x, y in batches])
    assert float(found.loss()) == pytest.approx(np.mean(whole**2), rel=1e-12)
    # With one target a sentence, sentences count.
    given["data"] = [(xp.array(x), xp.array(y[:, 0])) for x, y in batches]
    found = specop.objective(lambda params, batch: loss(params, (batch[0][:, 0], batch[1])), **given)
    whole = np.concatenate([np.ravel(0.5 * x[:, 0] - y[:, 0]) for x, y in batches])
    assert float(found.loss()) == pytest.approx(np.mean(whole**2), rel=1e-12)


def test_time_first_with_a_criterion_that_is_known():
    torch.manual_seed(0)
    model = _TimeFirst().double()
    batches = [(torch.randn(7, 2, 2).double(), torch.arange(2)), (torch.randn(5, 4, 2).double(), torch.arange(4) % 3)]
    found = specop.objective(model, F.cross_entropy, batches)
    losses = [F.cross_entropy(model(x), y).item() for x, y in batches]
    assert found.samples == 6
    assert float(found.loss()) == pytest.approx((2 * losses[0] + 4 * losses[1]) / 6, rel=1e-12)


class _TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.last = nn.RNN(2, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.cell(x)[0][-1])


# --- Functions that are none ------------------------------------------------------------------------------------------

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


class Hidden(nn.Module):
    def __init__(self, call, state):
        super().__init__()
        self.call, self.state = call, state

    def forward(self, h):
        return self.call(self, h)


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


class KerasNet(keras.Model):
    def __init__(self, call=lambda layer, h: h, state=None):
        super().__init__()
        self.first, self.last = keras.layers.Dense(5, dtype="float64"), keras.layers.Dense(3, dtype="float64")
        self.norm = keras.layers.BatchNormalization(dtype="float64")
        self.middle = lambda layer, h: h
        self.build(X.shape)
        self.middle, self.state = call, state

    def build(self, shape):
        super().build(shape)
        self.norm(self.call(keras.ops.zeros(shape, "float64")) @ keras.ops.zeros((3, 5), "float64"))

    def call(self, x, training=False):
        return self.last(self.middle(self, self.first(x)))


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


# --- The statistics of a batch ----------------------------------------------------------------------------------------


def norm(layer, h):
    return layer.norm(h, training=True)


def torch_model(middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), middle, nn.Linear(5, 3)).double().eval()


STATISTICS = {
    "torch, untracked": lambda: torch_model(nn.BatchNorm1d(5, track_running_stats=False)),
    "torch, function": lambda: torch_model(Hidden(lambda _, h: F.batch_norm(h, None, None, training=True), None)),
    "keras": lambda: KerasNet(norm),
}


@pytest.mark.parametrize("kind", STATISTICS)
def test_statistics_of_the_batch_in_evaluation_mode(kind):
    model = STATISTICS[kind]()
    array, criterion = (torch.tensor, F.mse_loss) if "torch" in kind else (tf.constant, keras.losses.MeanSquaredError())
    batches = [(array(x), array(y)) for x, y in parts(4, 2)]
    with pytest.raises(InvalidInputError, match=COUPLED):
        specop.objective(model, criterion, batches).gradient()
    one = specop.objective(model, criterion, (array(X), array(Y)))
    assert np.isfinite(np.asarray(one.hessian().to_dense())).all()
    for call in (lambda: one.fisher(kind="empirical") @ one.theta, lambda: next(one.per_sample_gradients())):
        with pytest.raises(InvalidInputError, match=r"depend on the rest of their batch|without running statistics"):
            call()


def test_statistics_of_each_sample_are_none_of_the_batch():
    model = torch_model(Hidden(lambda _, h: F.instance_norm(h[:, None])[:, 0], None))
    batches = [(torch.tensor(x), torch.tensor(y)) for x, y in parts(4, 2)]
    found = specop.objective(model, F.mse_loss, batches)
    truth = F.mse_loss(model(torch.tensor(X)), torch.tensor(Y)).item()
    assert float(found.loss()) == pytest.approx(truth, rel=1e-12)
    assert len(next(found.per_sample_gradients())) == 4


def test_batch_statistics_of_linen_and_equinox():
    net = linen.Sequential([linen.Dense(3, param_dtype=float), linen.BatchNorm(use_running_average=False)])
    variables = net.init(jax.random.key(0), jnp.asarray(X))
    statistics = variables["batch_stats"]

    def call(params, batch):
        return net.apply({"params": params, "batch_stats": statistics}, batch[0], mutable=["batch_stats"])[0]

    class Net(eqx.Module):
        layer: eqx.nn.Linear
        norm: eqx.nn.BatchNorm

        def __call__(self, x, state):
            return self.norm(self.layer(x), state)

    def make():
        layer = eqx.nn.Linear(4, 3, key=jax.random.key(0))
        return Net(layer, eqx.nn.BatchNorm(3, "batch", mode="batch"))

    module, state = eqx.nn.make_with_state(make)()

    def forward(model, batch):
        return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(batch[0], state)[0]

    def loss(z, y):
        return jnp.mean((z - y) ** 2)

    data = [(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)) for x, y in parts(4, 2)]
    with pytest.raises(InvalidInputError, match=COUPLED):
        specop.objective(call, loss, data, params=variables["params"]).loss()
    with pytest.raises(InvalidInputError, match=COUPLED):
        specop.objective(module, lambda z, batch: loss(z, batch[1]), data, forward=forward).loss()


# --- The plain call ---------------------------------------------------------------------------------------------------


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
