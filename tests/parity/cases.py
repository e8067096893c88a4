"""Every framework with every model of `problems` and every dtype, and how they are compared."""

import functools
import itertools
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

from parity.problems import PROBLEMS
from specop.arrays.backend import backend_of

# Frameworks that are installed and have an adapter.
FRAMEWORKS = [name for name in ("torch", "jax", "tensorflow") if find_spec(name) and find_spec(f"specop_{name}")]
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}


def parametrized(is_quick, is_repeated=False):
    """Every framework, model and dtype; what compiles for long beyond the quick ones is slow, or a repetition."""

    def marks(framework, name, dtype):
        if framework == "torch":
            return []
        if not is_quick(framework, name, dtype):
            return [pytest.mark.slow]
        return [pytest.mark.repetition] if is_repeated or dtype == "float32" else []

    return pytest.mark.parametrize(
        ("framework", "name", "dtype"),
        [pytest.param(*case, marks=marks(*case)) for case in itertools.product(FRAMEWORKS, PROBLEMS, TOLERANCES)],
    )


each = parametrized(lambda framework, name, dtype: name == "mlp" or dtype == "float64")
# Of algorithms, whose products other tests hold to the reference.
each_by_products = parametrized(lambda framework, name, dtype: name == "mlp" or dtype == "float64", is_repeated=True)
each_of_one = parametrized(lambda _, name, dtype: (name, dtype) == ("mlp", "float64"))
each_of_few = parametrized(lambda _, name, dtype: name == "mlp" or (name, dtype) == ("wide and deep", "float64"))


@functools.cache
def objective(framework, name, dtype, **keywords):
    """The problem's objective in a framework; the same one for the same arguments, as compiling takes long."""
    return models(framework).objective(PROBLEMS[name], dtype, **keywords)


def parameters(framework, name, dtype):
    """Its parameters, as native arrays."""
    return [models(framework).array(weight, dtype) for weight in PROBLEMS[name].weights.values()]


def operator(found, kind):
    """A curvature matrix of an objective."""
    if kind in ("hessian", "ggn", "jacobian"):
        return getattr(found, kind)()
    return fisher(found, "exact" if kind == "fisher" else kind, draws=2, seed=5)


def fisher(found, kind, **draws):
    """A Fisher matrix of an objective; "empirical" is of samples, "terms" of the terms of the loss."""
    if kind in ("empirical", "terms"):
        return found.fisher(kind="empirical", of="terms" if kind == "terms" else "samples")
    return found.fisher(kind=kind, **draws)


def models(framework):
    return import_module(f"parity.{framework}_models")


def numpy(native):
    return np.array(backend_of(native).to_numpy(native), dtype=np.float64)


def close(found, expected, dtype):
    """Equal within the dtype's tolerance, relative to the norm of what is expected."""
    assert np.linalg.norm(found - expected) <= TOLERANCES[dtype] * np.linalg.norm(expected)
