"""The case matrix: every array framework with every dtype. Tests written against it name no framework."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from specop.arrays.backend import Backend, backend_of
from specop.arrays.layout import Layout

# How a NumPy array becomes a native one; a framework that is not installed has no cases.
_FACTORIES: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": np.array,
    "torch": lambda array: importlib.import_module("torch").from_numpy(np.array(array)),
    "jax": lambda array: importlib.import_module("jax.numpy").array(array),
    "tensorflow": lambda array: importlib.import_module("tensorflow").convert_to_tensor(np.array(array)),
}
_MEANS: dict[str, Callable[[Any], Any]] = {
    "numpy": np.mean,
    "torch": lambda x: x.mean(),
    "jax": lambda x: x.mean(),
    "tensorflow": lambda x: importlib.import_module("tensorflow").reduce_mean(x),
}
_FRAMEWORKS = [name for name in _FACTORIES if find_spec(name)]
_WITH_IMMUTABLE_ARRAYS = {"jax", "tensorflow"}
_TOLERANCES = {"float32": 1e-4, "float64": 1e-10}


@dataclass(frozen=True)
class Case:
    """One framework with one dtype.

    `tol` is the error to allow relative to the norm of what is compared.
    """

    framework: str
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.framework}-{self.dtype}"

    @property
    def tol(self) -> float:
        return _TOLERANCES[self.dtype.name]

    @property
    def eps(self) -> float:
        return float(np.finfo(self.dtype).eps)

    @property
    def backend(self) -> Backend:
        return backend_of(self.array([0.0]))

    @property
    def has_mutable_arrays(self) -> bool:
        return self.framework not in _WITH_IMMUTABLE_ARRAYS

    @property
    def other_dtype(self) -> Case:
        return Case(self.framework, np.dtype("float64" if self.dtype == np.float32 else "float32"))

    def array(self, values: Any) -> Any:
        """Native array of this dtype, in storage of its own."""
        return self.make(np.array(values, dtype=self.dtype))

    def make(self, array: np.ndarray) -> Any:
        """Native array with the numbers, shape and dtype of a NumPy array."""
        return _FACTORIES[self.framework](array)

    def normal(self, *shape: int, seed: int = 0) -> Any:
        """Native array of standard normal entries."""
        return self.array(np.random.default_rng(seed).standard_normal(shape))

    def mean(self, native: Any) -> Any:
        """The mean of all entries, to be differentiated."""
        return _MEANS[self.framework](native)

    def foreign(self, values: Any) -> Any:
        """The same numbers in another framework's array, or in a plain list if there is no other."""
        others = [name for name in _FRAMEWORKS if name != self.framework]
        return Case(others[0], self.dtype).array(values) if others else list(values)

    def numpy(self, native: Any) -> np.ndarray:
        """NumPy copy of a native array; fails unless the array has this framework and dtype."""
        found = self.backend.to_numpy(native)
        assert backend_of(native) is self.backend and found.dtype == self.dtype
        return found

    def layout(self, n: int) -> Layout:
        whole = self.backend.layout(self.array(np.zeros(1)))
        return Layout(n, self.dtype, whole.device)

    def close(self, native: Any, expected: Any) -> None:
        """Assert equality within `tol`, relative to the largest expected entry."""
        found, expected = self.numpy(native), np.asarray(expected, dtype=float)
        np.testing.assert_allclose(found, expected, rtol=0, atol=self.tol * max(1.0, np.abs(expected).max(initial=0)))


CASES = [Case(name, np.dtype(dtype)) for name in _FRAMEWORKS for dtype in _TOLERANCES]

each_case = pytest.mark.parametrize("case", CASES, ids=str)

# An algorithm sees a backend only through its primitives, which each_case holds to their laws in both dtypes. Where
# kernels are compiled for each shape and dtype, a second dtype would take as long as everything else together.
_COMPILED = {"jax", "tensorflow"}
each_case_once_compiled = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, marks=[pytest.mark.repetition] if case.framework in _COMPILED and case.dtype == np.float64 else []
        )
        for case in CASES
    ],
    ids=str,
)
ALGORITHM_CASES = [
    pytest.param(case, marks=[pytest.mark.slow] if case.framework in _COMPILED and case.dtype == np.float64 else [])
    for case in CASES
]
each_algorithm_case = pytest.mark.parametrize("case", ALGORITHM_CASES, ids=str)
