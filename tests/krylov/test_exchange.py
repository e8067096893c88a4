"""Results cross from one framework, precision or file to another."""

import numpy as np
import pytest

import specop
from cases import CASES, Case
from specop.errors import InvalidInputError

VALUES = np.concatenate([100 * 0.75 ** np.arange(10), np.linspace(0, 1.3, 290)])
FRAMEWORKS = sorted({case.framework for case in CASES})

# Each framework once as the source and once as the target: no two of them know each other.
RING = set(zip(FRAMEWORKS, [*FRAMEWORKS[1:], FRAMEWORKS[0]], strict=True))
each_pair = pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param(a, b, marks=[] if (a, b) in RING else pytest.mark.slow)
        for a in FRAMEWORKS
        for b in FRAMEWORKS
        if a != b
    ],
)


def diagonal(framework, values=VALUES, dtype="float32"):
    case = Case(framework, np.dtype(dtype))
    return specop.DiagonalOperator(case.array(values)), case


@each_pair
def test_one_framework_warm_starts_another(source, target):
    A, case = diagonal(source)
    B, _ = diagonal(target, VALUES * 1.001)
    found = specop.eigsh(A, k=10)
    before = case.numpy(found.rows)
    cold, warm = specop.eigsh(B, k=10), specop.eigsh(B, k=10, v0=found)
    np.testing.assert_allclose(warm.eigenvalues, cold.eigenvalues, rtol=1e-5)
    assert warm.matvecs - warm.check_matvecs < cold.matvecs - cold.check_matvecs
    np.testing.assert_array_equal(case.numpy(found.rows), before)


@each_pair
def test_one_framework_deflates_another(source, target):
    found = specop.eigsh(diagonal(source, dtype="float64")[0], k=10, tol=1e-8)
    B, _ = diagonal(target)
    assert specop.trace(B, deflate=found, max_matvecs=8).estimate == pytest.approx(VALUES.sum(), rel=1e-5)
    density = specop.spectral_density(B, steps=20, deflate=found)
    assert density.moment(1).estimate == pytest.approx(VALUES.mean(), rel=0.05)


def test_a_result_from_a_file_warm_starts(tmp_path):
    A, _ = diagonal(FRAMEWORKS[-1])
    found = specop.eigsh(A, k=3)
    found.save(tmp_path / "eigen.npz")
    warm = specop.eigsh(A, k=3, v0=specop.load(tmp_path / "eigen.npz"))
    np.testing.assert_allclose(warm.eigenvalues, found.eigenvalues, rtol=1e-5)


@pytest.mark.parametrize("source", FRAMEWORKS)
def test_results_of_another_model_are_refused(source):
    found = specop.eigsh(diagonal(source)[0], k=2)
    B, _ = diagonal("numpy", VALUES[:-1])
    for call in (lambda: specop.eigsh(B, k=2, v0=found), lambda: specop.trace(B, deflate=found)):
        with pytest.raises(InvalidInputError, match=r"299"):
            call()
