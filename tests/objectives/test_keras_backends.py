"""Keras on each of its backends; each takes a process, because Keras reads its backend once."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

JAX = """
import sys, warnings
import jax, jax.numpy as jnp, keras, numpy as np
import specop
from specop.errors import InvalidInputError, ParametersChangedError
from specop.objectives import likelihoods
from specop_jax import output_program

random = np.random.default_rng(0)
x, y = random.standard_normal((8, 3)).astype("float32"), random.integers(0, 2, 8)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
layers = keras.layers


def model(**options):
    parts = [layers.Dense(4, activation="tanh", **options), layers.BatchNormalization(), layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((3,)), *parts, layers.Dense(2)])


def plain(network):
    def value(weights):
        others = [one.value for one in network.non_trainable_variables]
        outputs, _, losses = network.stateless_call(weights, others, x, training=False, return_losses=True)
        return loss(y, outputs) + sum(losses)
    return value


def fits(*arguments):
    fits.count += 1
    return likelihoods.fits(*arguments)


output_program.fits = fits
networks = keras.Sequential([keras.Input((3,)), layers.Dense(2)]), model(kernel_regularizer=keras.regularizers.L2(0.1))
for network in networks:
    weights = [one.value for one in network.trainable_variables]
    before = [np.array(one.value) for one in network.variables]
    objective = specop.objective(network, loss, [(x[:4], y[:4]), (x[4:], y[4:])])
    assert objective.names[0].startswith("dense") and objective.names[0].endswith("/kernel"), objective.names
    np.testing.assert_allclose(objective.loss(), plain(network)(weights), rtol=1e-6)
    ones = [jnp.ones_like(one) for one in weights]
    expected = jnp.concatenate([one.ravel() for one in jax.jvp(jax.grad(plain(network)), (weights,), (ones,))[1]])
    hessian = objective.hessian()
    vector = jnp.ones(objective.n, "float32")
    np.testing.assert_allclose(hessian @ vector, expected, atol=3e-6 * float(jnp.linalg.norm(expected)))
    assert not any("not verified" in note for note in hessian.notes), hessian.notes
    assert all(np.array_equal(one, other.value) for one, other in zip(before, network.variables))
    fits.count = 0
    try:
        product = objective.ggn() @ vector
        # What Keras brings is of its likelihood; over many classes the question would take most memory.
        assert fits.count == 0
        # It is that of cross-entropy, whose Fisher matrix it is.
        np.testing.assert_allclose(product, objective.fisher() @ vector, atol=1e-6)
        assert network.losses == [] and fits.count > 0
    except InvalidInputError as error:
        assert "as a penalty does" in str(error) and network.losses, error
network.layers[0].kernel.assign_add(np.ones((3, 4)))
try:
    hessian @ vector
    raise SystemExit("a model that moved was multiplied")
except ParametersChangedError:
    pass
half = keras.Sequential([keras.Input((3,)), layers.Dense(2, dtype="mixed_bfloat16")])
try:
    specop.objective(half, loss, (x, y))
    raise SystemExit("mixed precision was taken")
except InvalidInputError as error:
    assert "computes in bfloat16" in str(error)
assert "tensorflow" not in sys.modules
"""

# The same on all three; what is right is written in NumPy, and differentiated by complex steps.
CONVENIENCES = """
import os, sys
import keras, numpy as np
import specop
from specop.errors import InvalidInputError, ParametersChangedError

layers, random = keras.layers, np.random.default_rng(0)
x, y = random.standard_normal((8, 3)).astype("float32"), random.integers(0, 2, 8)
w = np.array([0.0, 1.0, 2.0, 3.0, 1.0, 1.0, 0.5, 4.0], "float32")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def made(**options):
    parts = [layers.Dense(4, activation="tanh", **options), layers.BatchNormalization(), layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((3,)), *parts, layers.Dense(2)])


def plain(theta, weights, divisor, penalty):
    first, bias, scale, shift, last, end = (
        part.reshape(shape) for part, shape in
        zip(np.split(theta, np.cumsum([12, 4, 4, 4, 8])), [(3, 4), (4,), (4,), (4,), (4, 2), (2,)])
    )
    z = (np.tanh(x @ first + bias) / np.sqrt(1.001) * scale + shift) @ last + end
    terms = np.log(np.exp(z).sum(1)) - z[np.arange(8), y]
    return (weights * terms).sum() / divisor + penalty * (first**2).sum()


def slope(theta, *others):
    steps = 1e-30j * np.eye(len(theta))
    return np.array([plain(theta + step, *others).imag for step in steps]) / 1e-30


def curved(theta, vector, *others):
    return (slope(theta + 1e-6 * vector, *others) - slope(theta - 1e-6 * vector, *others)) / 2e-6


def read(array):
    return np.array(keras.ops.convert_to_numpy(array), dtype=float)


def close(found, right):
    np.testing.assert_allclose(read(found), right, atol=3e-5 * np.abs(right).max())


def holds(objective, *others, is_outputs=True):
    theta = read(objective.theta)
    close(objective.loss(), plain(theta, *others))
    close(objective.gradient(), slope(theta, *others))
    hessian = objective.hessian()
    vector = keras.ops.convert_to_tensor(random.standard_normal(34).astype("float32"))
    close(hessian @ vector, curved(theta, read(vector), *others))
    if is_outputs:
        close(objective.ggn() @ vector, read(objective.fisher() @ vector))
    return hessian


def refused(text, *arguments, **options):
    try:
        specop.objective(*arguments, **options).loss()
    except InvalidInputError as error:
        assert text in str(error), error
        return str(error)
    raise SystemExit(f"not refused: {text}")


ones, network = np.ones(8), made()
before = [np.array(one) for one in network.get_weights()]
objective = specop.objective(network, loss, [(x[:5], y[:5]), (x[5:], y[5:])])
assert objective.names[0].startswith("dense") and objective.names[0].endswith("/kernel"), objective.names
hessian = holds(objective, ones, 8, 0.0)
parts = [(x[:5], y[:5], w[:5]), (x[5:], y[5:], w[5:])]
holds(specop.objective(network, loss, parts), w, 8, 0.0)
holds(specop.objective(network, loss, (x, y, None)), ones, 8, 0.0)
divided = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
holds(specop.objective(network, divided, parts), w, w.sum(), 0.0)
refused("Give all batches as", network, divided, [parts[0], (x, y)])
refused("must be a pair", network, lambda outputs, target: loss(target, outputs), parts)

# What compile() was given.
refused("a module needs a criterion", network, data=(x, y))
network.compile(loss=loss)
holds(specop.objective(network, data=(x, y)), ones, 8, 0.0)
holds(specop.objective(network, data=parts), w, 8, 0.0)
network.compile(loss=loss, loss_weights=0.5)
holds(specop.objective(network, data=parts), w, 16, 0.0, is_outputs=False)
penalized = made(kernel_regularizer=keras.regularizers.L2(0.1))
penalized.compile(loss=loss)
holds(specop.objective(penalized, data=(x, y)), ones, 8, 0.1, is_outputs=False)
assert all(np.array_equal(one, other) for one, other in zip(before, network.get_weights()))
regression = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
regression.compile(loss="mse")
target = random.standard_normal(8).astype("float32")
flat = specop.objective(regression, data=(x, target))
rows = np.c_[x, np.ones(8)]
fit = rows @ np.concatenate([one.ravel() for one in regression.get_weights()]) - target
close(flat.loss(), (fit**2).mean())
close(flat.fisher().to_dense(), 2 * rows.T @ rows / 8)


class OwnStep(keras.Sequential):
    def train_step(self, *arguments):
        return super().train_step(*arguments)


own = OwnStep([keras.Input((3,)), layers.Dense(2)])
own.compile(loss=loss)
refused("its own train_step", own, data=(x, y))
entry = keras.Input((3,))
double = keras.Model(entry, [layers.Dense(2)(entry), layers.Dense(2)(entry)])
double.compile(loss=[loss, loss])
refused("several outputs", double, loss, (x, (y, y)))
# What the text says to pass is that sum.
advice = refused("several outputs", double, data=(x, (y, y))).partition("Pass forward=")[2]
double.evaluate(x, [y, y], verbose=0)
both = specop.objective(double, data=(x, (y, y)), forward=eval(advice.partition(", which returns")[0]))
rows, expected, dense = np.c_[x, np.ones(8)], 0.0, np.zeros((16, 16))
for head in range(2):
    z = rows @ np.concatenate([double.get_weights()[2 * head], double.get_weights()[2 * head + 1][None]])
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    expected -= np.log(p[np.arange(8), y]).mean()
    middle = np.einsum("na,ab->nab", p, np.eye(2)) - np.einsum("na,nb->nab", p, p)
    block = np.einsum("ni,nj,nab->iajb", rows, rows, middle).reshape(8, 8) / 8
    dense[8 * head : 8 * head + 8, 8 * head : 8 * head + 8] = block
close(both.loss(), expected)
close(both.hessian().to_dense(), dense)

# What a layer masks counts in no matrix: linear in its last layer, both are one.
masked = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(5, 3, mask_zero=True), layers.Dense(2)])
tokens = np.array([[1, 2, 0, 0], [3, 4, 1, 0]])
labels = np.array([[0, 1, 1, 1], [1, 1, 0, 0]])
last = specop.objective(masked, loss, (tokens, labels), select="dense*")
close(last.loss(), read(loss(labels, masked(tokens))))
rows = np.c_[read(masked.layers[0](tokens)).reshape(8, 3), np.ones(8)][tokens.ravel() > 0]
z = rows @ np.concatenate([masked.get_weights()[1], masked.get_weights()[2][None]])
p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
right = np.einsum("ni,nj,nab->iajb", rows, rows, np.einsum("na,ab->nab", p, np.eye(2)) - np.einsum("na,nb->nab", p, p))
close(last.hessian().to_dense(), right.reshape(8, 8) / 5)
try:
    close(last.ggn().to_dense(), right.reshape(8, 8) / 5)
    assert keras.config.backend() != "jax"
except InvalidInputError as error:
    assert keras.config.backend() == "jax" and "a layer masks" in str(error), error

network.layers[0].kernel.assign_add(np.ones((3, 4)))
try:
    hessian @ objective.gradient()
    raise SystemExit("a model that moved was multiplied")
except ParametersChangedError:
    pass
assert keras.config.backend() == "tensorflow" or "tensorflow" not in sys.modules

# Fine-tuning trains the head first.
tuned = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)])
tuned.layers[0].trainable = False
head = specop.objective(tuned, loss, (x, y))
vector = head.theta
tuned.layers[0].trainable = True
for call in (head.gradient, lambda: head.hessian() @ vector):
    try:
        call()
        raise SystemExit("the parameters that are trained now were left out")
    except ParametersChangedError as error:
        assert "2 parameters that were frozen when" in str(error), error
"""

TORCH = """
import keras, numpy as np, torch
import specop
from specop.errors import InvalidInputError

network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(2)])
x, y = torch.randn(6, 3), torch.randint(0, 2, (6,))
objective = specop.objective(network, torch.nn.functional.cross_entropy, (x, y))
leaves = [one.value for one in network.trainable_variables]
slopes = torch.autograd.grad(torch.nn.functional.cross_entropy(network(x), y), leaves, create_graph=True)
flat = torch.cat([one.reshape(-1) for one in slopes])
rows = [torch.autograd.grad(one, leaves, retain_graph=True, allow_unused=True) for one in flat]
right = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
torch.testing.assert_close(objective.hessian().to_dense(), right, atol=1e-5, rtol=1e-4)
(found,) = objective.per_sample_gradients()
assert found.shape == (6, objective.n)
torch.testing.assert_close(found.mean(0), flat.detach(), atol=1e-6, rtol=1e-4)
assert all(leaf.grad is None for leaf in leaves)
try:
    specop.objective(network, torch.nn.functional.cross_entropy, (x, y), fixed_randomness=0)
    raise SystemExit("a fixed seed was taken")
except InvalidInputError as error:
    assert "not available on Keras' torch backend" in str(error), error
"""


# Each imports two frameworks and compiles anew.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "program"),
    [("jax", JAX), ("torch", TORCH), *((backend, CONVENIENCES) for backend in ("tensorflow", "jax", "torch"))],
)
def test_keras_on(backend, program, tmp_path):
    if not (find_spec("keras") and find_spec(backend)):
        pytest.skip(f"needs Keras and {backend}")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": paths, "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
