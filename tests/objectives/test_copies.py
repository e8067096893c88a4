"""Objectives and operators are pickled and copied, with a model of their own."""

import copy
import importlib
import pickle

import numpy as np
import pytest

import specop
from linear_cases import HESSIAN, batch, each_framework, mean_squares
from specop.errors import ParametersChangedError


def linear_torch():
    torch = importlib.import_module("torch")
    model = torch.nn.Linear(3, 1, bias=False).double()
    return model, torch.nn.MSELoss(), lambda: model.weight.data.add_(1.0)


def linear_jax():
    nnx = importlib.import_module("flax.nnx")
    model = nnx.Linear(3, 1, use_bias=False, param_dtype=np.float64, rngs=nnx.Rngs(0))
    return model, mean_squares, lambda: nnx.update(model, nnx.State({"kernel": model.kernel[...] + 1.0}))


def linear_tensorflow():
    keras = importlib.import_module("keras")
    layer = keras.layers.Dense(1, use_bias=False, dtype="float64")
    model = keras.Sequential([keras.Input((3,), dtype="float64"), layer])
    return model, keras.losses.MeanSquaredError(dtype="float64"), lambda: layer.kernel.assign_add(np.ones((3, 1)))


LINEAR = {"torch": linear_torch, "jax": linear_jax, "tensorflow": linear_tensorflow}
REMADE = {"pickle": lambda thing: pickle.loads(pickle.dumps(thing)), "deepcopy": copy.deepcopy}


def products(hessian):
    return hessian.backend.to_numpy(hessian @ hessian.backend.from_host(np.ones(3), hessian.domain))


# Of Keras' own way to save a model.
keras_warning = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@keras_warning
@pytest.mark.parametrize("way", REMADE)
@each_framework
def test_objectives_and_operators_are_pickled_and_copied(framework, way):
    model, criterion, move = LINEAR[framework]()
    x, y = batch(framework)
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    objective = specop.objective(model, criterion, data)
    hessian = objective.hessian()
    products(hessian)
    made = [REMADE[way](thing) for thing in (objective, hessian, hessian + specop.identity_like(hessian))]
    again = [made[0].hessian(), made[0].ggn(), *made[1:]]
    # A model that Keras has pickled computes in float32.
    tol = 1e-6 if framework == "tensorflow" else 1e-12
    # Their model is their own: another point of this one is none of theirs.
    move()
    for number, operator in enumerate(again):
        np.testing.assert_allclose(products(operator), HESSIAN.sum(1) + (number == 3), rtol=tol)
    with pytest.raises(ParametersChangedError):
        REMADE[way](hessian)


@keras_warning
@each_framework
def test_a_criterion_that_cannot_be_pickled_is_named(framework):
    model, criterion, _ = LINEAR[framework]()
    objective = specop.objective(model, lambda outputs, y: criterion(outputs, y), batch(framework))
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"test_a_criterion_that_cannot_.*lambda"):
        pickle.dumps(objective)
    assert copy.deepcopy(objective).n == 3
