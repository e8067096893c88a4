"""Data of other dtypes and kinds than the model's: right where the framework takes them, else refused by name."""

import contextlib
import itertools

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
tf = pytest.importorskip("tensorflow")

import jax.numpy as jnp  # isort: skip

X = np.random.default_rng(0).normal(size=(6, 3))
Y = np.array([0, 1, 0, 1, 1, 0])
W = np.random.default_rng(1).normal(size=(3, 2))
BYTES = np.random.default_rng(2).integers(0, 5, (6, 3)).astype(np.uint8)


def torch_loss(params, batch):
    return torch.nn.functional.cross_entropy(torch.tanh(batch[0] @ params["w"]), batch[1])


def jax_loss(params, batch):
    z = jnp.tanh(batch[0] @ params["w"])
    return jnp.mean(jax.nn.logsumexp(z, axis=1) - z[jnp.arange(len(z)), batch[1]])


def tf_loss(params, batch):
    z = tf.tanh(batch[0] @ params["w"])
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch[1], z))


FRAMEWORKS = {"torch": (torch_loss, torch.tensor), "jax": (jax_loss, jnp.asarray), "tensorflow": (tf_loss, tf.constant)}
each = pytest.mark.parametrize("framework", FRAMEWORKS)


def objective(framework, data, dtype=np.float64):
    function, array = FRAMEWORKS[framework]
    return specop.objective(function, params={"w": array(W.astype(dtype))}, data=data)


def hessian(x):
    """By torch alone, in float64."""
    x, y = torch.tensor(np.asarray(x, dtype=float)), torch.tensor(Y)
    return torch.autograd.functional.hessian(
        lambda w: torch.nn.functional.cross_entropy(torch.tanh(x @ w), y), torch.tensor(W)
    ).reshape(6, 6)


def dense(A):
    return A.backend.to_numpy(A.to_dense())


@each
def test_foreign_bytes_and_views_of_numpy(framework):
    kinds = [X.astype(">f8"), X[::-1][::-1], np.asfortranarray(X)]
    for x in kinds:
        np.testing.assert_allclose(dense(objective(framework, (x, Y)).hessian()), hessian(X), atol=1e-12)
    backwards = objective(framework, (X[::-1], Y[::-1]))
    np.testing.assert_allclose(dense(backwards.hessian()), hessian(X), atol=1e-12)


def test_torch_weights_of_batches_by_labels_in_any_bytes():
    criterion = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]).double())
    model = torch.nn.Linear(3, 2).double()
    batches = [(X[:2], Y[:2][::-1]), (X[2:], Y[2:].astype(">i4").astype(">i8"))]
    whole = [(X, np.r_[Y[:2][::-1], Y[2:]])]
    found, expected = (float(specop.objective(model, criterion, data).loss()) for data in (batches, whole))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "x", [BYTES, BYTES > 2, X.astype(np.float16), X.astype(np.float32)], ids=lambda x: x.dtype.name
)
def test_dtypes_that_jax_promotes(x):
    np.testing.assert_allclose(dense(objective("jax", (x, Y)).hessian()), hessian(x), atol=1e-12)


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
@pytest.mark.parametrize(
    "x", [BYTES, BYTES > 2, X.astype(np.float16), X.astype(np.float32)], ids=lambda x: x.dtype.name
)
def test_dtypes_that_a_framework_does_not_promote_are_refused_by_name(framework, x):
    found = objective(framework, (x, Y))
    for call in (found.loss, found.gradient, lambda: dense(found.hessian())):
        with pytest.raises(
            InvalidInputError, match=rf"fails on the batch.*{x.dtype.name}.*convert inputs to the dtype"
        ):
            call()


def test_labels_of_a_wrong_dtype_are_refused_by_name():
    for y in (Y.astype(np.int32), Y.astype(float)):
        with pytest.raises(InvalidInputError, match=rf"{y.dtype.name} of shape \(6,\).*class labels to integers"):
            objective("torch", (X, y)).loss()


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("x", [X.astype(object), X.astype(np.longdouble)], ids=["objects", "long double"])
def test_arrays_that_no_framework_knows_are_refused_by_name(framework, x):
    with pytest.raises(InvalidInputError, match=f"ndarray of {x.dtype}, which was passed on as it is"):
        objective(framework, (x, Y)).loss()


def test_tensorflow_refuses_arrays_that_it_does_not_know_by_name():
    for x in (X.astype(object), X.astype(np.longdouble)):
        with pytest.raises(InvalidInputError, match=f"TensorFlow has no tensors of {x.dtype}"):
            objective("tensorflow", (x, Y)).loss()


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_lists_of_numbers_are_refused_by_name(framework):
    with pytest.raises(InvalidInputError, match="It holds no array, but plain Python values"):
        objective(framework, (X.tolist(), Y.tolist())).loss()


@each
def test_errors_of_the_users_own_come_as_they_are(framework):
    def loss(params, batch):
        raise RuntimeError("the user's own")

    found = specop.objective(loss, params={"w": FRAMEWORKS[framework][1](W)}, data=(X, Y))
    with pytest.raises(RuntimeError, match="the user's own") as caught:
        found.loss()
    assert not isinstance(caught.value, InvalidInputError)


class Batches:
    """Batches that are no list, of a stated length or none, up to so many."""

    def __init__(self, most, length=None):
        self.most, self.length = most, length

    def __iter__(self):
        return itertools.repeat((torch.tensor(X), torch.tensor(Y)), self.most)

    def __len__(self):
        if self.length is None:
            raise TypeError("it has no len()")
        return self.length


@pytest.mark.parametrize(
    ("batches", "text"),
    [
        (Batches(9), "has given 8 batches and has not ended"),
        (Batches(9, 4), "has given 8 batches, of which it says there are 4, and has not ended"),
        (Batches(8), None),
        (Batches(9, 5), None),
        ([(torch.tensor(X), torch.tensor(Y))] * 9, None),
    ],
    ids=["no length", "more than twice the length", "few", "less than twice the length", "list"],
)
def test_batches_without_an_end_are_told_of(monkeypatch, batches, text):
    monkeypatch.setattr("specop.objectives.source._MANY", 8)
    made = objective("torch", batches)
    with pytest.warns(UserWarning, match=text) if text else contextlib.nullcontext():
        assert made.samples == len(X) * len(list(iter(batches)))
    # Once.
    made.gradient()


def test_tensorflows_data_sets_without_an_end_are_refused():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
    assert objective("tensorflow", data.repeat(2)).samples == 12
    with pytest.raises(InvalidInputError, match=r"without an end.*Leave repeat\(\) out, or pass data.take\(N\)"):
        objective("tensorflow", data.repeat())


def test_mappings_that_a_model_takes_otherwise_are_explained():
    class Whole(torch.nn.Linear):
        def forward(self, batch):
            return super().forward(batch["x"])

    with pytest.raises(InvalidInputError, match=r"passed as model\(\*\*batch\), here with x, y. .*forward=lambda"):
        specop.objective(Whole(3, 2), data={"x": torch.tensor(X), "y": torch.tensor(Y)}).loss()
