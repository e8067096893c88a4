"""A backend of somebody else, found by an entry point; and that docs/extending.md is true."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import specop
from specop.arrays.backend import Backend, backend_of
from specop.errors import InvalidInputError
from specop.testing import check_backend, check_objective

ROOT = Path(__file__).parents[2]
THIRD_PARTY = ROOT / "tests" / "third_party"
GUIDE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.M)


def symmetric(n=60):
    a = np.random.default_rng(0).standard_normal((n, n))
    return a + a.T


def function_operator(minicupy, matrix):
    """A product as a third party would write it; only `like` tells whose arrays they are."""
    on_device = minicupy.asarray(matrix)
    like = minicupy.asarray(np.zeros(1))
    return specop.FunctionOperator(lambda x: on_device @ x, matrix.shape, like=like, is_symmetric=True)


def test_the_entry_point_is_found_by_the_arrays_type(minicupy):
    backend = backend_of(minicupy.asarray(np.zeros(2)))
    assert type(backend).__module__ == "specop_minicupy.arrays"
    check_backend(backend, minicupy.asarray)


def test_without_the_entry_point_the_type_is_unknown(minicupy, monkeypatch):
    monkeypatch.setattr("sys.path", [place for place in sys.path if place != str(THIRD_PARTY)])
    with pytest.raises(InvalidInputError, match=r"no adapter for minicupy\.ndarray.*'specop.backends'"):
        backend_of(minicupy.asarray(np.zeros(2)))


def test_spectral_methods_agree_with_numpy(minicupy):
    matrix = symmetric()
    theirs, ours = function_operator(minicupy, matrix), specop.DenseOperator(matrix, is_symmetric=True)
    found, expected = (specop.eigsh(A, k=4, tol=1e-10, seed=1) for A in (theirs, ours))
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, atol=1e-10)
    assert type(found.eigenvectors) is minicupy.ndarray
    vectors = found.eigenvectors.get()
    np.testing.assert_allclose(matrix @ vectors, vectors * found.eigenvalues, atol=1e-7)

    found, expected = (specop.trace(A, max_matvecs=20, method="hutchinson", seed=1) for A in (theirs, ours))
    assert found.estimate == pytest.approx(expected.estimate, rel=1e-10)
    found, expected = (specop.spectral_density(A, steps=15, probes=2, seed=1) for A in (theirs, ours))
    np.testing.assert_allclose(found.nodes, expected.nodes, atol=1e-8)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-8)


def test_operands_are_not_converted(minicupy):
    A = function_operator(minicupy, symmetric())
    with pytest.raises(InvalidInputError, match=r"must be a minicupy[.]ndarray on mini:0, got ndarray"):
        A @ np.zeros(60)


def test_derivatives(minicupy):
    model = minicupy.Regression(4)
    rng = np.random.default_rng(0)
    data = [tuple(minicupy.asarray(rng.standard_normal(shape)) for shape in [(k, 4), (k,)]) for k in (5, 9)]
    objective = specop.objective(model, None, data)
    check_objective(objective, params=model.parameters)
    # With a budget of nothing every product is computed anew.
    check_objective(specop.objective(model, None, data, memory_budget=0), params=model.parameters)


# --- The guide --------------------------------------------------------------------------------------------------------


def quoted(block):
    """The file that a block says it is from."""
    match = re.match(r"# (specop_minicupy/\w+\.py)\n", block)
    return THIRD_PARTY / match[1] if match else None


def test_the_guide_lists_all_that_a_backend_must_do():
    required, default = GUIDE.split("| about | required |")[1].split("| default | what uses it |")
    assert cells(required, 2) == {"name", "array_type"} | Backend.__abstractmethods__
    others = {name for name in vars(Backend) if not name.startswith("_")} - Backend.__abstractmethods__
    assert cells(default, 1) == others


def cells(table, number):
    """Names in code quotes in one column of a table, which ends at the first empty line after it."""
    rows = [line.split("|") for line in table.strip().split("\n\n")[0].splitlines()]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row[number])}


def test_quotations_in_the_guide_are_exact():
    quotations = [block for block in BLOCKS if quoted(block)]
    assert len(quotations) == 4
    for block in quotations:
        _, text = block.split("\n", 1)
        assert text in quoted(block).read_text(), block


def test_code_of_the_guide_runs(minicupy, capsys):
    namespace = {}
    for block in BLOCKS:
        if not quoted(block):
            exec(block, namespace)
    np.testing.assert_allclose(namespace["largest"].eigenvalues, [98, 99, 100], rtol=1e-3)
    printed = capsys.readouterr().out
    assert "matvec: is symmetric, as claimed: u'(Av) = v'(Au)" in printed and "2 eigenvalues" in printed
