"""What is differentiated is what the user trains: parameters left out, and batches that would count wrongly."""

import subprocess
import sys

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError

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
    with pytest.raises(InvalidInputError, match=r"batch 0 is a pair .* leading dimensions are 5 and 2"):
        specop.objective(loss, params=params, data=batches).loss()
    found = specop.objective(loss, params=params, data=batches, weight=lambda batch: len(batch[1]))
    assert float(found.loss()) == pytest.approx(2 + (2 * 9 + 4 * 36) / 6)
    # One batch is what it is, however it counts.
    assert float(specop.objective(loss, params=params, data=batches[0]).loss()) == pytest.approx(11)


def test_distributed_data_parallel_is_seen_through_and_groups_are_asked_for_a_word():
    """Two processes over gloo, each for itself, with a time limit of their own."""
    program = """
import datetime, sys, torch, specop
from torch import distributed, nn
rank, store = int(sys.argv[1]), sys.argv[2]
limit = datetime.timedelta(seconds=60)
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=limit)
torch.manual_seed(0)
model, data = nn.Linear(3, 1), (torch.ones(4, 3) * (1 + rank), torch.zeros(4, 1))
wrapped = nn.parallel.DistributedDataParallel(model)
for parallel in (None, True):
    try:
        specop.objective(wrapped, nn.functional.mse_loss, data, parallel=parallel)
    except specop.errors.InvalidInputError as error:
        print("refused:", str(error)[:60])
alone = specop.objective(wrapped, nn.functional.mse_loss, data, parallel=False)
plain = specop.objective(model, nn.functional.mse_loss, data, parallel=False)
print(alone.names, float(abs(alone.gradient() - plain.gradient()).max()))
distributed.destroy_process_group()
"""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        setting = f"import sys; sys.path[:] = {sys.path!r}\n"
        store = str(Path(folder) / "store")
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", setting + program, str(rank), store],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            found = [worker.communicate(timeout=120) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    for (printed, errors), worker in zip(found, workers, strict=True):
        assert worker.returncode == 0, errors
        assert printed.splitlines() == [
            "refused: this is one of 2 processes, and its data may be a part of al",
            "refused: parallel=True, the data of all processes together, is not av",
            "('weight', 'bias') 0.0",
        ]
