"""Losses, points and arguments that make no Hessian: what the errors say in every framework."""

import re

import numpy as np
import pytest

import specop
from parity.cases import FRAMEWORKS, models, parameters
from parity.problems import PROBLEMS
from specop.errors import InvalidInputError, NonFiniteError

MLP = PROBLEMS["mlp"]
COUNT = MLP.vector.size

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


def array(framework, values, dtype="float64"):
    return models(framework).array(np.asarray(values), dtype)


def batch(framework, scale=1.0):
    x, y = MLP.batches[0]
    return array(framework, x * scale), array(framework, y)


def objective(framework, criterion=None, *, params=None, data=None, **keywords):
    """Of the network, or with another criterion, other parameters or other data."""
    outputs, own = models(framework).MODELS["mlp"]
    params = parameters(framework, "mlp", "float64") if params is None else params
    return specop.objective(outputs, criterion or own, data or batch(framework), params=params, **keywords)


def uses(found):
    """What a caller asks an objective for."""
    return found.loss, found.gradient, lambda: found.hessian().to_dense()


LOSSES = {
    "of each sample": (lambda outputs, y: outputs[:, 0], rf"float64 of shape \({len(MLP.batches[0][1])},\)"),
    "an integer": (lambda outputs, y: y[0], r"int\d\d"),
    "a dict": (lambda outputs, y: {"loss": outputs[0, 0]}, "dict"),
    "nothing": (lambda outputs, y: None, "NoneType"),
}


@pytest.mark.parametrize("name", LOSSES)
@each_framework
def test_losses_that_are_not_one_real_number(framework, name):
    criterion, got = LOSSES[name]
    for use in uses(objective(framework, criterion)):
        with pytest.raises(InvalidInputError, match=f"must be one real number, the mean over the batch; got .*{got}"):
            use()


@each_framework
def test_what_is_not_finite_is_named(framework):
    """Parameters and points by their names; where all of them are finite, the data are to blame."""
    spoilt = [weight.copy() for weight in MLP.weights.values()]
    spoilt[1].flat[0] = np.nan
    params = [array(framework, weight) for weight in spoilt]
    for use in uses(objective(framework, params=params)):
        with pytest.raises(NonFiniteError, match=r"the loss is nan\. These arrays.* infinity: 1\. Restore them from a"):
            use()
    for use in uses(objective(framework, data=batch(framework, np.nan))):
        with pytest.raises(NonFiniteError, match=r"the loss is nan\. All parameters are finite: look at the data"):
            use()
    found = objective(framework)
    point = array(framework, np.where(np.arange(COUNT) == COUNT - 1, np.nan, MLP.vector))
    with pytest.raises(NonFiniteError, match=rf"in theta, hold NaN or infinity: {len(MLP.weights) - 1}\. "):
        found.loss(point)


@each_framework
def test_points_and_vectors_that_do_not_fit(framework):
    found = objective(framework)
    for values, message in [
        (array(framework, np.ones(COUNT - 1)), rf"theta must have shape \({COUNT},\), got \({COUNT - 1},\)"),
        (array(framework, np.ones(COUNT), "float32"), "theta must have dtype float64, got float32"),
        (np.ones(COUNT), "theta must be a"),
    ]:
        for use in (found.loss, found.gradient, found.hessian):
            with pytest.raises(InvalidInputError, match=message):
                use(values)
    with pytest.raises(InvalidInputError, match=rf"the vector must have shape \({COUNT},\)"):
        found.unflatten(array(framework, np.ones(3)))
    with pytest.raises(InvalidInputError, match="expected a structure like params"):
        found.flatten({"w": array(framework, MLP.vector)})
    tree = parameters(framework, "mlp", "float64")
    tree[1] = array(framework, np.ones(99))
    with pytest.raises(InvalidInputError, match=r"'1' must be an array of shape .*, got \(99,\)"):
        found.hessian() @ tree


ARGUMENTS = {
    "memory": ({"memory_budget": -1}, "memory_budget must be a number of bytes >= 0, got -1"),
    "no parameters": ({"params": {"a": []}}, "params is empty"),
    "a number": ({"params": {"a": 1.0}}, "no adapter for builtins.float"),
    "forward": ({"forward": lambda model, batch: batch}, "forward= is for modules"),
    "a name": ({"criterion": "mse"}, r"criterion must be a function.*got 'mse'\. Names are not looked up"),
    "a class": ({"criterion": dict}, "criterion is the class dict: pass an object of it"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
@each_framework
def test_arguments_that_do_not_fit(framework, name):
    keywords, message = ARGUMENTS[name]
    with pytest.raises(InvalidInputError, match=message):
        objective(framework, **keywords)


@each_framework
def test_parameters_and_models_that_are_none(framework):
    with pytest.raises(InvalidInputError, match="no floating-point array among the 2 leaves"):
        objective(framework, params={"n": array(framework, np.arange(3)), "m": array(framework, np.arange(2))})
    params = array(framework, np.ones(2))
    with pytest.raises(InvalidInputError, match=r"module or a function .* got int"):
        specop.objective(3, params=params)
    outputs, criterion = models(framework).MODELS["mlp"]
    with pytest.raises(InvalidInputError, match=re.escape("objective(fun, params=..., data=...)")):
        specop.objective(outputs, criterion, batch(framework))


@each_framework
def test_only_torch_compiles_products_when_it_is_told_to(framework):
    with pytest.raises(InvalidInputError, match=r"compile must be True or False, got 'max-autotune'"):
        objective(framework, compile="max-autotune")
    if framework == "torch":
        objective(framework, compile=True)
        return
    with pytest.raises(InvalidInputError, match=f"products in {framework} are compiled programs already"):
        objective(framework, compile=True)
