"""What is differentiated is what the user trains: parameters left out, and batches that would count wrongly."""

import functools

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError, ParametersChangedError

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
tf = pytest.importorskip("tensorflow")

from flax import nnx
from torch import nn

import jax.numpy as jnp  # isort: skip

X, Y = np.ones((4, 3)), np.zeros((4, 1))


def torch_mean(params, batch):
    return ((batch[0] @ params["real"]) ** 2).mean() + (params["other"].abs() ** 2).sum()


def jax_mean(params, batch):
    return jnp.mean((batch[0] @ params["real"]) ** 2) + jnp.sum(jnp.abs(params["other"]) ** 2)


def tf_mean(params, batch):
    product = tf.reduce_mean((batch[0] @ params["real"]) ** 2)
    return product + tf.reduce_sum(tf.cast(tf.abs(params["other"]) ** 2, product.dtype))


FUNCTIONS = {
    "torch": (torch_mean, lambda array: torch.tensor(array)),
    "jax": (jax_mean, jnp.asarray),
    "tensorflow": (tf_mean, tf.constant),
}
each_function = pytest.mark.parametrize("framework", FUNCTIONS)


@each_function
def test_complex_parameters_of_a_function_are_refused_by_name(framework):
    function, array = FUNCTIONS[framework]
    params = {"real": array(np.ones((3, 1))), "other": array(np.ones(2) + 1j)}
    data = (array(X), array(Y))
    with pytest.raises(InvalidInputError, match=r"1 parameters are complex, such as 'other'"):
        specop.objective(function, params=params, data=data)
    with pytest.raises(InvalidInputError, match="complex, such as 'other'"):
        specop.objective(function, params=params, data=data, select=["real", "other"])
    chosen = specop.objective(function, params=params, data=data, select="real")
    assert chosen.names == ("real",)
    assert float(chosen.loss()) == pytest.approx(9 + 4)


def test_complex_parameters_of_modules_are_refused_by_name():
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter = nn.Parameter(torch.ones(2, dtype=torch.cfloat))
            self.last = nn.Linear(3, 1)

        def forward(self, x):
            return self.last(x * torch.fft.irfft(self.filter, n=3))

    model, data = Spectral(), (torch.ones(4, 3), torch.zeros(4, 1))
    with pytest.raises(InvalidInputError, match="complex, such as 'filter'"):
        specop.objective(model, nn.functional.mse_loss, data)
    assert specop.objective(model, nn.functional.mse_loss, data, select="last").n == 4
    model.filter.requires_grad_(False)
    assert specop.objective(model, nn.functional.mse_loss, data).n == 4

    class Flax(nnx.Module):
        def __init__(self):
            self.filter = nnx.Param(jnp.ones(2) + 0j)
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            return self.scale.get_value() * x[:, :1] * jnp.abs(self.filter.get_value()).sum()

    def squares(outputs, y):
        return jnp.mean((outputs - y) ** 2)

    with pytest.raises(InvalidInputError, match="complex, such as 'filter'"):
        specop.objective(Flax(), squares, (jnp.asarray(X), jnp.asarray(Y)))
    assert specop.objective(Flax(), squares, (jnp.asarray(X), jnp.asarray(Y)), select="scale").n == 1

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.filter = tf.Variable(np.ones(2) + 0j, name="filter")
            self.scale = tf.Variable(1.0, name="scale")

        def __call__(self, x):
            return self.scale * x[:, :1] * tf.cast(tf.reduce_sum(tf.abs(self.filter)), tf.float32)

    data = tf.ones((4, 3)), tf.zeros((4, 1))
    with pytest.raises(InvalidInputError, match="complex, such as 'filter'"):
        specop.objective(Module(), lambda outputs, y: tf.reduce_mean((outputs - y) ** 2), data)


def test_python_floats_among_jax_parameters_are_refused():
    def loss(params, batch):
        return jnp.mean(batch * params["scale"]) + params["w"] ** 2

    with pytest.raises(InvalidInputError, match=r"the parameter 'scale' is the Python number 2\.0"):
        specop.objective(loss, params={"w": jnp.ones(()), "scale": 2.0}, data=jnp.ones(3))
    kept = specop.objective(
        lambda params, batch: jnp.mean(batch) * params["w"] ** params["power"],
        params={"w": jnp.full((), 3.0), "power": 2},
        data=jnp.ones(3),
    )
    assert kept.names == ("w",) and float(kept.loss()) == 9


def test_a_selection_of_frozen_parameters_is_refused_at_once():
    model = nn.Sequential(nn.Linear(3, 2).requires_grad_(False), nn.Linear(2, 1))
    with pytest.raises(InvalidInputError, match=r"all 2 selected parameters are frozen, such as '0\.weight'"):
        specop.objective(model, nn.functional.mse_loss, (torch.ones(4, 3), torch.zeros(4, 1)), select="0")


def test_parameters_that_are_unfrozen_later_are_missed_by_name():
    """Fine-tuning trains the head first: a monitor of the objective made then would follow the head alone."""
    model, data = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), (torch.ones(4, 3), torch.zeros(4, 1))
    model[0].requires_grad_(False)
    objective = specop.objective(model, nn.functional.mse_loss, data)
    chosen = specop.objective(model, nn.functional.mse_loss, data, select="1.weight")
    monitor = specop.training.Monitor(objective, every=1, what="lambda_max")
    monitor.record(1)
    model[0].requires_grad_(True)
    for call in (objective.gradient, lambda: objective.hessian() @ torch.ones(3), lambda: monitor.record(2)):
        with pytest.raises(ParametersChangedError, match=r"2 parameters that were frozen .* such as '0\.weight'"):
            call()
    # What was chosen stays chosen, and what is frozen now may be watched all the same.
    assert chosen.hessian().shape == (2, 2)
    model.requires_grad_(False)
    assert objective.hessian().shape == (3, 3)


def test_a_criterion_given_as_a_class_is_refused():
    with pytest.raises(InvalidInputError, match=r"criterion is the class MSELoss: pass an object of it, MSELoss\("):
        specop.objective(nn.Linear(3, 1), nn.MSELoss, (torch.ones(4, 3), torch.zeros(4, 1)))


@each_function
def test_pairs_of_different_lengths_need_a_weight(framework):
    """Time first: x has (T, N, D), y has (N,), and batches would be weighted by their number of steps."""
    function, array = FUNCTIONS[framework]

    def loss(params, batch):
        return function(params, (batch[0][-1], batch[1]))

    params = {"real": array(np.ones((3, 1))), "other": array(np.ones(2))}
    batches = [
        (array(np.full((5, 2, 3), 1.0)), array(np.zeros(2))),
        (array(np.full((7, 4, 3), 2.0)), array(np.zeros(4))),
    ]
    with pytest.raises(InvalidInputError, match=r"leading dimensions of the arrays in batch 0 are 5 and 2"):
        specop.objective(loss, params=params, data=batches).loss()
    found = specop.objective(loss, params=params, data=batches, weight=lambda batch: len(batch[1]))
    assert float(found.loss()) == pytest.approx(2 + (2 * 9 + 4 * 36) / 6)
    # One batch is what it is, however it counts.
    assert float(specop.objective(loss, params=params, data=batches[0]).loss()) == pytest.approx(11)


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_vectors_follow_the_order_in_which_a_dict_was_written(framework):
    _, array = FUNCTIONS[framework]
    params = {"w": array(np.arange(3.0)), "b": array(np.full(2, 7.0))}

    def loss(params, batch):
        return (params["w"][0] * params["b"][0]) ** 2

    found = specop.objective(loss, params=params, data=array(np.zeros(1)))
    assert found.names == ("w", "b")
    np.testing.assert_array_equal(np.asarray(found.theta), [0, 1, 2, 7, 7])
    other_order = {"b": params["b"], "w": params["w"]}
    np.testing.assert_array_equal(np.asarray(found.flatten(other_order)), [0, 1, 2, 7, 7])
    assert list(found.unflatten(found.theta)) == ["w", "b"]
    with pytest.raises(InvalidInputError, match="with the arrays w, b; got one with w"):
        found.flatten({"w": params["w"]})


CLASSES = torch.tensor([1.0, 5.0, 0.2], dtype=torch.double)
CRITERIA = {
    "class weights": nn.CrossEntropyLoss(weight=CLASSES),
    "ignored labels": nn.CrossEntropyLoss(ignore_index=1),
    "label smoothing": nn.CrossEntropyLoss(weight=CLASSES, label_smoothing=0.3),
    "negative log-likelihood": nn.NLLLoss(weight=CLASSES),
    "default ignore_index": nn.functional.cross_entropy,
    "partial": functools.partial(nn.functional.cross_entropy, ignore_index=2),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_the_mean_does_not_depend_on_the_batches(name):
    """Batches count by what the criterion divides by; reference: one batch, and torch's own loss of all data."""
    generator = torch.Generator().manual_seed(4)
    model = nn.Linear(4, 3, dtype=torch.double)
    x = torch.randn(7, 4, generator=generator, dtype=torch.double)
    y = torch.tensor([0, 1, 2, 1, 0, -100 if name == "default ignore_index" else 2, 1])
    whole, split = (
        specop.objective(model, CRITERIA[name], batches)
        for batches in ([(x, y)], [(x[:2], y[:2]), (x[2:3], y[2:3]), (x[3:], y[3:])])
    )
    assert float(split.loss()) == pytest.approx(CRITERIA[name](model(x), y).item(), rel=1e-12)
    np.testing.assert_allclose(split.hessian().to_dense(), whole.hessian().to_dense(), atol=1e-12)
    np.testing.assert_allclose(split.gradient(), whole.gradient(), atol=1e-12)


def test_tokens_and_entries_count_one_by_one():
    """Sequences of two lengths: the mean over all tokens is not that of the batches weighted by their sequences."""
    model = nn.Linear(2, 3, dtype=torch.double)
    batches = [
        (
            torch.full((samples, steps, 2), float(steps), dtype=torch.double),
            torch.zeros(samples, steps, dtype=torch.long),
        )
        for samples, steps in ((2, 3), (4, 5))
    ]
    criterion = nn.CrossEntropyLoss()
    moved = specop.objective(nn.Sequential(model, _Channels()), criterion, batches)
    outputs = torch.cat([model(x).reshape(-1, 3) for x, _ in batches])
    assert float(moved.loss()) == pytest.approx(criterion(outputs, torch.zeros(26, dtype=torch.long)).item(), rel=1e-12)
    squares = [(x, x[..., :1] * 0) for x, _ in batches]
    single = nn.Linear(2, 1, dtype=torch.double)
    found = specop.objective(single, nn.MSELoss(), squares)
    entries = torch.cat([single(x).reshape(-1) for x, _ in squares])
    assert float(found.loss()) == pytest.approx((entries**2).mean().item(), rel=1e-12)


class _Channels(nn.Module):
    def forward(self, x):
        return x.movedim(-1, 1)
