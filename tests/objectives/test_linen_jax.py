"""Modules of flax.linen and their train states need no function, or the text says what is missing."""

import importlib

import numpy as np
import pytest

import specop
from linear_cases import HESSIAN, batch, case, dense, mean_squares
from specop.errors import InvalidInputError


def linen(train_by_default):
    nn = pytest.importorskip("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train=train_by_default):
            x = nn.BatchNorm(use_running_average=not train, use_scale=False, use_bias=False, param_dtype=np.float64)(x)
            x = nn.Dropout(0.5, deterministic=not train)(x)
            return nn.Dense(1, use_bias=False, param_dtype=np.float64)(x)

    jax = importlib.import_module("jax")
    model = Model()
    variables = model.init(jax.random.key(0), batch("jax")[0], train=False)
    # The statistics at the start are zero and one; epsilon is 1e-5.
    return model, variables


def test_linen_modules_and_their_train_states_need_no_function_jax():
    model, variables = linen(train_by_default=False)
    optax, train_state = pytest.importorskip("optax"), importlib.import_module("flax.training.train_state")

    class State(train_state.TrainState):
        batch_stats: object = None

    state = State.create(
        apply_fn=model.apply, params=variables["params"], batch_stats=variables["batch_stats"], tx=optax.sgd(0.1)
    )
    whole = train_state.TrainState.create(apply_fn=model.apply, params=variables, tx=optax.sgd(0.1))
    with pytest.raises(InvalidInputError, match=r"params= is a TrainState, .* pass it as the model, objective\(state,"):
        specop.objective(model, mean_squares, batch("jax"), params=whole)
    restored = importlib.import_module("jax").tree.map(np.asarray, variables)
    expected = HESSIAN / (1 + 1e-5)
    for objective in (
        specop.objective(model, mean_squares, batch("jax"), params=variables),
        specop.objective(model, mean_squares, batch("jax"), params=restored),
        specop.objective(model.bind(variables), mean_squares, batch("jax")),
        specop.objective(state, mean_squares, batch("jax")),
        specop.objective(whole, mean_squares, batch("jax")),
        specop.objective(
            state, lambda z, b: mean_squares(z, b[1]), batch("jax"), forward=lambda apply, b: apply(b[0], train=False)
        ),
    ):
        assert objective.names == ("Dense_0.kernel",)
        np.testing.assert_allclose(dense(objective), expected, rtol=1e-6)
        np.testing.assert_allclose(case("jax").numpy(objective.ggn().to_dense()), expected, rtol=1e-6)
        assert list(objective.unflatten(objective.gradient())) == ["Dense_0"]


def test_linen_modules_are_told_what_is_missing_jax():
    model, variables = linen(train_by_default=True)
    with pytest.raises(InvalidInputError, match=r"Model does not hold its parameters: .*params=variables"):
        specop.objective(model, mean_squares, batch("jax"))
    for params in (variables, variables["params"]):
        with pytest.raises(InvalidInputError, match=r"forward=lambda apply, batch: apply\(batch\[0\], train=False\)"):
            specop.objective(model, mean_squares, batch("jax"), params=params).loss()
