"""The examples in docstrings do what they show."""

import doctest
import importlib
import pkgutil

import pytest

import specop

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

MODULES = ["specop", *(module.name for module in pkgutil.walk_packages(specop.__path__, "specop."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0
