"""Several batches add up to the loss on all data, counted by what it divides by, or are refused."""

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
tf = pytest.importorskip("tensorflow")

import equinox as eqx
import keras
from flax import linen
from torch import nn
from torch.nn import functional as F

import jax.numpy as jnp  # isort: skip
from loss_cases import (
    COUPLED,
    FRAMEWORKS,
    PARAMS,
    Hidden,
    KerasNet,
    X,
    Y,
    each_framework,
    expected,
    few_for_compiled,
    made,
    outputs,
    parts,
    squares,
    torch_model,
)


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


def masked(xp, z, y):
    """The mean over the samples whose labels are not 7, which pad a batch."""
    counts = xp.abs(y[:, :1] - 7.0) > 0
    counts = tf.cast(counts, tf.float64) if xp is FRAMEWORKS["tensorflow"] else counts * (0.0 * y[:, :1] + 1.0)
    return xp.sum((z - y) ** 2 * counts) / (xp.sum(counts) + 1e-300)


def not_padding(batch):
    return np.sum(np.asarray(batch[1])[:, 0] != 7.0)


@each_framework
@pytest.mark.parametrize("counted", [0, 1])
def test_batches_of_which_one_is_padding_are_refused(name, counted):
    """Each batch by itself is a mean over its halves; a mean over what counts in both weighs them otherwise."""
    first, second = parts(4, 2)
    batches = [(x, np.where(i == counted, y, 7.0)) for i, (x, y) in enumerate((first, second))]
    with pytest.raises(InvalidInputError, match=rf"{COUPLED}: 2 samples of batch 0 and as many of batch 1"):
        made(name, masked, batches).loss()
    found = made(name, masked, batches, weight=not_padding)
    assert float(found.loss()) == pytest.approx(expected(masked, *(first, second)[counted]), rel=1e-12)


# Where the padding is in three batches of two samples each, of which the first two have none.
PADDED = {"the end": [[False], [True]], "all": [[True], [True]], "half of each sample": [[False, False, True]]}


@each_framework
@pytest.mark.parametrize("where", PADDED)
def test_the_last_batch_is_looked_at_too(name, where):
    """The first batches of a data set are whole, and the last one is filled up to their size."""
    *whole, (x, y) = parts(2, 2, 2)
    batches = [*whole, (x, np.where(PADDED[where], 7.0, y))]

    def entries(xp, z, y):
        counts = xp.abs(y - 7.0) > 0
        counts = tf.cast(counts, tf.float64) if xp is FRAMEWORKS["tensorflow"] else counts * (0.0 * y + 1.0)
        return xp.sum((z - y) ** 2 * counts) / (xp.sum(counts) + (1e-300 if where == "all" else 0.0))

    with pytest.raises(InvalidInputError, match=rf"{COUPLED}: 1 samples of batch 0 and as many of batch 2"):
        made(name, entries, batches).loss()
    found = made(name, entries, batches, weight=lambda batch: np.sum(np.asarray(batch[1]) != 7.0))
    joined = np.concatenate([y for _, y in batches])
    assert float(found.loss()) == pytest.approx(expected(entries, X, joined), rel=1e-12)


# What no batch of one sample shows by itself.
OF_SEVERAL = {case: NOT_ADDITIVE[case] for case in ("weighted mean", "root of a mean", "ratio of sums")}


@pytest.mark.parametrize(("name", "case"), few_for_compiled(OF_SEVERAL, 1))
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (1, 5), (5, 1)])
def test_batches_of_one_sample_are_looked_at_too(name, case, sizes):
    """A mean by weights of classes, or over tokens that count, has no weights where each batch is one sample."""
    batches = parts(*sizes)
    with pytest.raises(InvalidInputError, match=rf"{COUPLED}"):
        made(name, OF_SEVERAL[case], batches).loss()
    criterion = ADDITIVE["sums of samples"]
    found = made(name, criterion, batches)
    assert float(found.loss()) == pytest.approx(expected(criterion, X, Y), rel=1e-12)


@each_framework
def test_models_of_single_samples(name):
    """What takes the first sample of a batch, and leaves the others, says nothing of batches of one."""
    found = made(name, lambda xp, z, y: squares(xp, z[0], y[0]), parts(1, 1, 1, 1, 1, 1))
    assert float(found.loss()) == pytest.approx(expected(squares, X, Y), rel=1e-12)


class Masked(nn.MSELoss):
    def forward(self, z, y):
        counts = y != 7.0
        return (z - y)[counts].square().mean()


class Weighted(nn.CrossEntropyLoss):
    def forward(self, z, y):
        return F.cross_entropy(z, y, weight=torch.tensor([1.0, 5.0, 0.2], dtype=z.dtype))


OWN = {
    "entries": (Masked(), [[1.0, 2.0, 3.0]] * 5 + [[1.0, 7.0, 7.0]], lambda y: (y != 7.0).sum()),
    "labels": (Weighted(), [1, 1, 1, 1, 0, 2], lambda y: torch.tensor([1.0, 5.0, 0.2])[y].sum()),
}


@pytest.mark.parametrize("kind", OWN)
def test_criteria_derived_from_those_of_torch(kind):
    """They may divide by something else than these, which the first batches need not show."""
    criterion, targets, terms = OWN[kind]
    model = torch_model(nn.Tanh())
    x, y = torch.tensor(X), torch.tensor(targets)
    batches = [(x[i : i + 2], y[i : i + 2]) for i in (0, 2, 4)]
    with pytest.raises(InvalidInputError, match=rf"{COUPLED}: 1 samples of batch 0 and as many of batch 2"):
        specop.objective(model, criterion, batches).loss()
    found = specop.objective(model, criterion, batches, weight=lambda batch: terms(batch[1]))
    assert float(found.loss()) == pytest.approx(criterion(model(x), y).item(), rel=1e-6)


@pytest.mark.parametrize(("criterion", "calls"), [(F.mse_loss, 0), (lambda z, y: F.mse_loss(z, y), 2)])
def test_what_a_look_at_later_batches_costs(criterion, calls):
    """Two calls each, once, and none where it is known what the criterion divides by."""
    looks = []
    for count in (2, 6):
        seen = []
        model = torch_model(Hidden(lambda _, h, seen=seen: (seen.append(len(h)), h)[1], None))
        found = specop.objective(model, criterion, [tuple(map(torch.tensor, b)) for b in (2 * parts(2, 2, 2))[:count]])
        found.loss()
        first = len(seen)
        found.loss()
        assert len(seen) - first == count
        looks.append(first - count)
    assert looks[1] - looks[0] == 4 * calls


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


# --- The statistics of a batch ----------------------------------------------------------------------------------------


def norm(layer, h):
    return layer.norm(h, training=True)


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
