"""Models whose products are right, and models whose derivatives leave something out, in every framework.

The module of each framework has `RIGHT` and `WRONG`: by name what makes an objective, of 8 samples of 12 numbers in 3
classes, with parameters of the dtype asked for. With a wrong one stand the matrices that must be refused.
"""

from importlib import import_module
from importlib.util import find_spec

import numpy as np

FRAMEWORKS = [name for name in ("torch", "jax", "tensorflow") if find_spec(name) and find_spec(f"specop_{name}")]
SPREAD = {"tiny weights": 1e-3, "large weights": 30.0}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def weights(*shape, dtype, seed=0):
    """Of a layer: as large as they are where training begins."""
    return (numbers(*shape, seed=seed) / shape[0] ** 0.5).astype(dtype)


X, Y = numbers(8, 12), np.arange(8, dtype=np.int32) % 3


def models(framework):
    return import_module(f"witness.{framework}_models")


def named(which):
    """Each framework with each of its models."""
    return [(framework, name) for framework in FRAMEWORKS for name in getattr(models(framework), which)]
