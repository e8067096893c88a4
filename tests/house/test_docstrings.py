"""The examples in docstrings do what they show."""

import doctest
import importlib
import pkgutil

import pytest

import specop
from printed import alike

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

MODULES = ["specop", *(module.name for module in pkgutil.walk_packages(specop.__path__, "specop."))]


class Checker(doctest.OutputChecker):
    """Compares numbers as numbers, and no times."""

    def check_output(self, want, got, optionflags):
        return alike(want, got) or super().check_output(want, got, optionflags)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder().find(module, name):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize(
    ("want", "got", "alike"),
    [
        ("array([0.5, 1.  ])", "array([0.49999999999, 1.00000000001])", True),
        ("norm 2, 0.00 s", "norm 2, 1.7 s", True),
        ("array([0.5, 1.  ])", "array([0.51, 1.  ])", False),
        ("2 of 3", "2 of 4", False),
        ("10.0", "a 10.0", False),
    ],
)
def test_numbers_are_compared_as_numbers(want, got, alike):
    assert Checker().check_output(want, got, 0) == alike
