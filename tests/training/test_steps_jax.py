"""In JAX a monitor follows modules that change in place and parameters that are new in each step; it changes no bit."""

import numpy as np
import pytest

import specop
from specop.training import Monitor

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
import jax.numpy as jnp

X = jnp.asarray(np.random.default_rng(0).standard_normal((32, 4)), dtype="float32")
Y = jnp.asarray(np.random.default_rng(1).integers(3, size=32))


def cross_entropy(outputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


def same(one, other):
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(map(np.array_equal, map(raw, leaves), map(raw, others)))


def raw(leaf):
    is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_limits(history):
    """Records of Adam at a rate of 0.01, which has no limit before its first step."""
    assert history.steps.tolist() == [0, 2, 4] and len(set(history["lambda_max"])) == 3
    np.testing.assert_allclose(history["limit"], [np.nan, 3800.0, 3800.0], rtol=1e-3)
    assert (history["sharpness"][1:] > history["lambda_max"][1:]).all()


def flax_run(is_watched):
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
            self.norm, self.frozen = nnx.BatchNorm(8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
            self.dropout = nnx.Dropout(0.3, rngs=rngs)

        def __call__(self, x):
            return self.second(self.dropout(jnp.tanh(self.frozen(self.norm(self.first(x))))))

    model = Network(nnx.Rngs(0, dropout=1))
    model.frozen.use_running_average = True
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradient = nnx.value_and_grad(lambda model: cross_entropy(model(X), Y))(model)
        optimizer.update(model, gradient)
        return loss

    monitor = Monitor(specop.objective(model, cross_entropy, (X, Y)), every=2, optimizer=optimizer)
    for i in range(5):
        if is_watched:
            monitor.record(i)
        step(model, optimizer)
    modes = model.norm.use_running_average, model.frozen.use_running_average, model.dropout.deterministic
    assert modes == (False, True, False)
    return (nnx.state(model), nnx.state(optimizer)), monitor


def test_a_flax_run_with_a_monitor_ends_in_the_same_bits():
    pytest.importorskip("flax")
    plain, _ = flax_run(False)
    watched, monitor = flax_run(True)
    assert same(plain, watched)
    assert_limits(monitor.history)


# Of flax it asks what changes in place, and a function of optax what is new in each step.
@pytest.mark.repetition
def test_an_equinox_run_with_a_monitor_ends_in_the_same_bits():
    eqx = pytest.importorskip("equinox")

    class Network(eqx.Module):
        first: eqx.nn.Linear
        second: eqx.nn.Linear
        dropout: eqx.nn.Dropout

        def __init__(self, key):
            one, two = jax.random.split(key)
            self.first, self.second = eqx.nn.Linear(4, 8, key=one), eqx.nn.Linear(8, 3, key=two)
            self.dropout = eqx.nn.Dropout(0.3)

        def __call__(self, x, key=None):
            return self.second(self.dropout(jnp.tanh(self.first(x)), key=key))

    def loss(model, key):
        return cross_entropy(jax.vmap(model)(X, jax.random.split(key, len(X))), Y)

    optimizer = optax.adam(1e-2)

    objective = specop.objective(
        eqx.nn.inference_mode(Network(jax.random.key(0))),
        lambda outputs, batch: cross_entropy(outputs, batch[1]),
        (X, Y),
        forward=lambda model, batch: jax.vmap(model)(batch[0]),
    )

    @eqx.filter_jit
    def step(model, state, key):
        updates, state = optimizer.update(eqx.filter_grad(loss)(model, key), state)
        return eqx.apply_updates(model, updates), state

    def run(is_watched):
        model, key = Network(jax.random.key(0)), jax.random.key(1)
        state = optimizer.init(eqx.filter(model, eqx.is_array))
        monitor = Monitor(objective, every=2)
        for i in range(5):
            if is_watched:
                monitor.record(i, params=model, optimizer=(optimizer, state))
            key, now = jax.random.split(key)
            model, state = step(model, state, now)
        return (eqx.filter(model, eqx.is_array), state, key), monitor

    plain, _ = run(False)
    watched, monitor = run(True)
    assert same(plain, watched)
    assert_limits(monitor.history)


def test_an_optax_run_on_a_function_with_a_schedule():
    schedule = optax.linear_schedule(0.2, 0.1, 10)
    optimizer = optax.sgd(schedule)

    def loss(params, batch):
        return jnp.mean((batch[0] @ params["w"] - 1.0) ** 2) + jnp.sum(params["w"] ** 4) / 12

    params = {"w": jnp.arange(1.0, 5.0)}
    state = optimizer.init(params)
    hessian = jax.jit(jax.hessian(lambda w: loss({"w": w}, (X, Y))))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params, (X, Y)), state)
        return optax.apply_updates(params, updates), state

    monitor = Monitor(specop.objective(loss, params=params, data=(X, Y)), every=4, what="lambda_max", lr=schedule)
    for i in range(9):
        record = monitor.record(i, params=params)
        if record is not None:
            error = abs(record["lambda_max"].estimate - np.linalg.eigvalsh(hessian(params["w"]))[-1])
            assert error <= record.numbers["lambda_max_error"] + 1e-5
        params, state = step(params, state)
    np.testing.assert_allclose(monitor.history["lr"], [0.2, 0.16, 0.12], rtol=1e-6)
