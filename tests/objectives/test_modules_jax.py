"""Objectives of flax.nnx and equinox modules."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp

import specop
from jax_cases import (
    close,
    cross_entropy,
    labels,
    normal,
    split,
)
from specop.errors import InvalidInputError, NondeterministicError, ParametersChangedError


@pytest.fixture
def nnx():
    return pytest.importorskip("flax.nnx")


def nnx_model(nnx):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 4, param_dtype=jnp.float64, rngs=rngs)
            self.norm = nnx.BatchNorm(4, param_dtype=jnp.float64, dtype=jnp.float64, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.second = nnx.Linear(4, 3, param_dtype=jnp.float64, rngs=rngs)

        def __call__(self, x):
            return self.second(self.dropout(jnp.tanh(self.norm(self.first(x)))))

    model = Net(nnx.Rngs(0))
    # Flax makes statistics in float32, which float64 data cannot update.
    model.norm.mean, model.norm.var = nnx.BatchStat(normal(4)), nnx.BatchStat(1 + normal(4, seed=1) ** 2)
    model.eval()
    return model


def state_of(nnx, model):
    graphdef, state = nnx.split(model)
    return graphdef, jax.tree.leaves(state)


def test_an_nnx_module(nnx):
    model, batch = nnx_model(nnx), (normal(11, 3), labels(11))
    graphdef, before = state_of(nnx, model)
    objective = specop.objective(model, cross_entropy, split(batch, 6, 5))
    assert objective.names[:2] == ("first.bias", "first.kernel") and objective.n == 39
    tree = {name: dict(nnx.to_flat_state(nnx.state(model)))[tuple(name.split("."))][...] for name in objective.names}
    theta = objective.flatten(tree)

    def loss(vector):
        state = nnx.state(model)
        flat = dict(nnx.to_flat_state(state))
        for name, value in objective.unflatten(vector).items():
            flat[tuple(name.split("."))] = flat[tuple(name.split("."))].replace(value)
        return cross_entropy(nnx.merge(graphdef, nnx.from_flat_state(flat))(batch[0]), batch[1])

    exact = jax.jit(jax.hessian(loss))
    hessian = exact(theta)
    H = objective.hessian()
    close(H.to_dense(), hessian)
    close(objective.restrict("second").hessian().to_dense(), np.asarray(hessian)[24:, 24:])
    assert objective.restrict(model.second).names == ("second.bias", "second.kernel")
    after_def, after = state_of(nnx, model)
    assert after_def == graphdef and all(a is b for a, b in zip(after, before, strict=True))
    model.first.bias[...] = model.first.bias[...] + 1
    with pytest.raises(ParametersChangedError, match="changed since this operator was made"):
        H @ theta
    close(
        objective.hessian().to_dense(),
        exact(objective.flatten(tree | {"first.bias": model.first.bias[...]})),
    )


def test_an_nnx_module_in_training_mode(nnx):
    model, batch = nnx_model(nnx), (normal(11, 3), labels(11))
    objective = specop.objective(model, cross_entropy, batch)
    model.dropout.deterministic = False
    with pytest.raises(InvalidInputError, match=r"layer 'dropout' \(Dropout\) has active dropout. Call model.eval"):
        objective.loss()
    model.train()
    before = state_of(nnx, model)[1]
    fixed = specop.objective(model, cross_entropy, batch, fixed_randomness=3)
    H = fixed.hessian()
    vector = normal(39)
    close(H @ vector, H @ vector, 0)
    matrix = np.asarray(H.to_dense())
    close(matrix, matrix.T)
    assert fixed.loss() == fixed.loss() != specop.objective(model, cross_entropy, batch, fixed_randomness=4).loss()
    assert all(a is b for a, b in zip(state_of(nnx, model)[1], before, strict=True))
    model.dropout.deterministic = True
    with pytest.raises(InvalidInputError, match=r"layer 'norm' \(BatchNorm\) is batch normalization in training mode"):
        specop.objective(model, cross_entropy, batch).loss()


def test_draws_from_the_rngs_of_an_nnx_module(nnx):
    """Where no layer says so: the random counts of the copy that runs have moved."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layer, self.rngs = nnx.Linear(3, 3, param_dtype=jnp.float64, rngs=rngs), rngs

        def __call__(self, x):
            return self.layer(x) * jax.random.bernoulli(self.rngs.dropout(), 0.5, (3,))

    model, batch = Net(nnx.Rngs(0, dropout=1)), (normal(11, 3), labels(11))
    objective = specop.objective(model, cross_entropy, batch)
    for call in (objective.loss, lambda: objective.ggn() @ objective.theta):
        with pytest.raises(NondeterministicError, match=r"draws from the module's nnx\.Rngs.*fixed_randomness=0"):
            call()
    fixed = specop.objective(model, cross_entropy, batch, fixed_randomness=0)
    assert fixed.loss() == fixed.loss()


def test_a_penalty_that_reads_the_module_is_refused(nnx):
    """The criterion's module is not the copy that is differentiated: the penalty would be a constant."""
    model, (x, y) = nnx_model(nnx), (normal(11, 3), labels(11))

    def penalty(model):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    objective = specop.objective(model, lambda outputs, y: cross_entropy(outputs, y) + penalty(model), (x, y))
    for call in (objective.loss, lambda: objective.ggn() @ objective.theta):
        with pytest.raises(InvalidInputError, match=r"reads the parameter 'first\.bias' of the module.*forward="):
            call()
    told = specop.objective(
        model,
        lambda outputs, batch: cross_entropy(outputs[0], batch[1]) + outputs[1],
        (x, y),
        forward=lambda model, batch: (model(batch[0]), penalty(model)),
    )
    plain = specop.objective(model, cross_entropy, (x, y)).hessian().to_dense()
    close(told.hessian().to_dense(), plain + 2 * jnp.eye(39))


def test_tied_nnx_weights_count_once(nnx):
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(6, 3, param_dtype=jnp.float64, dtype=jnp.float64, rngs=rngs)
            self.again = self.embed

        def __call__(self, x):
            return self.again.attend(jnp.tanh(self.embed(x)))

    model, x = Tied(nnx.Rngs(0)), jnp.arange(11) % 6
    objective = specop.objective(model, cross_entropy, (x, x[::-1]))
    table = model.embed.embedding[...]

    def loss(flat):
        table = flat.reshape(6, 3)
        return cross_entropy(jnp.tanh(table[x]) @ table.T, x[::-1])

    assert objective.n == 18
    close(objective.hessian().to_dense(), jax.jit(jax.hessian(loss))(table.reshape(-1)))
    for name in ("again", "again.embedding", "embed.*"):
        assert specop.objective(model, cross_entropy, (x, x[::-1]), select=name).names == objective.names


def test_arrays_that_an_nnx_module_holds_outside_of_variables_are_constants(nnx):
    class Net(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(3, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
            self.mean, self.scale = normal(3), np.full(3, 2.0)
            self.factors = nnx.Param({"left": jnp.ones(3), "right": normal(3, seed=1)})

        def __call__(self, x):
            factors = self.factors.get_value()
            return self.layer(jnp.tanh((x - self.mean) / self.scale * factors["left"])) * factors["right"]

    model, (x, y) = Net(), (normal(11, 3), labels(11))
    objective = specop.objective(model, cross_entropy, (x, y))
    assert objective.names == ("factors.left", "factors.right", "layer.bias", "layer.kernel")

    def loss(flat):
        left, right, bias, kernel = flat[:3], flat[3:6], flat[6:9], flat[9:].reshape(3, 3)
        return cross_entropy((jnp.tanh((x - model.mean) / 2 * left) @ kernel + bias) * right, y)

    close(objective.hessian().to_dense(), jax.jit(jax.hessian(loss))(objective.theta))


def test_an_nnx_state_as_the_parameters_of_a_function(nnx):
    model, batch = nnx_model(nnx), (normal(11, 3), labels(11))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, batch):
        return cross_entropy(nnx.merge(graphdef, params, rest)(batch[0]), batch[1])

    found = specop.objective(loss, data=batch, params=params)
    close(found.hessian().to_dense(), specop.objective(model, cross_entropy, batch).hessian().to_dense())


def test_an_equinox_module():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(3, 3, 4, 1, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)
    batch = (normal(11, 3), labels(11))

    def forward(model, batch):
        return jax.vmap(model)(batch[0])

    objective = specop.objective(
        model, lambda outputs, batch: cross_entropy(outputs, batch[1]), split(batch, 6, 5), forward=forward
    )
    assert objective.n == 31 and objective.names[0] == "layers.0.weight"
    theta = objective.flatten(model)
    exact = jax.hessian(lambda v: cross_entropy(jax.vmap(objective.unflatten(v))(batch[0]), batch[1]))
    hessian = jax.jit(exact)(theta)
    close(objective.hessian().to_dense(), hessian)
    close(objective.restrict("layers.1").hessian().to_dense(), np.asarray(hessian)[16:, 16:])
    assert isinstance(objective.hessian() @ model, eqx.nn.MLP)


def test_equinox_dropout_needs_a_key():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.Sequential([eqx.nn.Linear(3, 3, key=jax.random.key(0)), eqx.nn.Dropout(0.5)])
    with pytest.raises(InvalidInputError, match=r"layer 'layers.1' \(Dropout\) has active dropout.*inference_mode"):
        specop.objective(model, cross_entropy, (normal(3), labels(3)))
    batch = normal(5, 3), labels(5)

    def call(model, batch):
        return jax.vmap(model)(batch[0])

    with pytest.raises(InvalidInputError, match=r"Dropout requires a key.* or give them one fixed key"):
        specop.objective(model, lambda z, batch: cross_entropy(z, batch[1]), batch, forward=call).loss()


def test_modules_that_cannot_be_used(nnx):
    model, batch = nnx_model(nnx), (normal(11, 3), labels(11))
    with pytest.raises(InvalidInputError, match="a module needs a criterion"):
        specop.objective(model, data=batch)
    with pytest.raises(InvalidInputError, match=r"a batch must be a pair \(x, y\).*got tuple of 3"):
        specop.objective(model, cross_entropy, (*batch, 1)).loss()
    linen = pytest.importorskip("flax.linen")
    with pytest.raises(InvalidInputError, match=r"Dense does not hold its parameters.*params=variables"):
        specop.objective(linen.Dense(3), cross_entropy, batch)
