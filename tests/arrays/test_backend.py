"""What test_conformance.py leaves open: longer vectors, exact texts, blocks of rows, how backends are found."""

import numpy as np
import pytest

from cases import CASES, each_case
from specop.arrays.backend import backend_of
from specop.arrays.rows import RowBlocks
from specop.errors import InvalidInputError


def filled(case, rows, lead=3, capacity=None):
    """A basis that holds these rows."""
    backend, layout = case.backend, case.layout(rows.shape[1])
    basis = backend.allocate(layout, capacity or len(rows), lead)
    for i, row in enumerate(rows):
        basis = backend.set_row_(basis, i, case.array(row), 1.0)
    return basis


def rows_of(case, basis, k):
    return np.stack([case.numpy(case.backend.copy(case.backend.row(basis, i))) for i in range(k)])


@each_case
def test_reductions_over_millions_of_entries_stay_exact(case):
    # BLAS alone is off by 1e-4 (a row of the basis would have that length error) to 1e-3.
    x, y = np.random.default_rng(0).random((2, 3_000_000)).astype(case.dtype)
    dot, norm = case.backend.to_host(case.backend.dot(case.array(x), case.array(y)), case.backend.norm(case.array(x)))
    assert dot == pytest.approx(x.astype(float) @ y, rel=3e-7)
    assert norm == pytest.approx(np.linalg.norm(x.astype(float)), rel=3e-7)


# 20,000 columns cross the border of a chunk, 0 rows and 13 rows those of the blocks.
@pytest.mark.parametrize(
    ("n", "k", "near"), [(50, 0, []), (50, 1, [0]), (50, 13, [12]), (50, 13, [2, 3, 12]), (20_000, 13, [0, 11])]
)
@each_case
def test_orthogonalize(case, n, k, near):
    rng = np.random.default_rng(n + k)
    rows = np.linalg.qr(rng.standard_normal((n, max(k, 1))))[0].T[:k]
    basis = filled(case, rows, lead=3) if k else case.backend.allocate(case.layout(n), 4, 3)
    # Large along the rows near and small along the others, so that the second pass corrects the first.
    x = rng.standard_normal(len(near)) @ rows[near] + 1e-4 * rng.standard_normal(n)
    w, c, h, beta = case.backend.orthogonalize_(case.array(x), basis, k, near)
    exact = x - rows.T @ (rows @ x)
    host_c, host_h, host_beta = case.backend.to_host(c, h, beta)
    assert host_c.shape == (len(near),) and host_h.shape == (k,) and host_beta.shape == ()
    host_h[near] += host_c
    np.testing.assert_allclose(host_h, rows @ x, atol=100 * case.eps * np.linalg.norm(x))
    assert host_beta == pytest.approx(np.linalg.norm(case.numpy(w).astype(float)), rel=20 * case.eps)
    np.testing.assert_allclose(case.numpy(w), exact, atol=100 * case.eps * np.linalg.norm(x))
    stored = rows.astype(case.dtype).astype(float)
    assert np.abs(stored @ case.numpy(w).astype(float)).max(initial=0) <= 20 * case.eps * host_beta


@each_case
def test_combine_of_long_rows(case):
    rng = np.random.default_rng(0)
    rows, coefficients = rng.standard_normal((5, 300_000)), rng.standard_normal((5, 2))
    basis = case.backend.combine_(filled(case, rows, lead=2), coefficients, 0)
    np.testing.assert_allclose(rows_of(case, basis, 2), coefficients.T @ rows, atol=20 * case.tol)


def blocks(lead, capacity, columns=20_000):
    return RowBlocks(CASES[0].layout(columns), capacity, lead, lambda *shape: np.zeros(shape))


def test_rows_take_memory_as_they_come():
    basis = blocks(lead=3, capacity=20)
    assert basis.blocks == []
    basis.grow(1)
    assert [len(block) for block in basis.blocks] == [3]
    basis.grow(4)
    assert [len(block) for block in basis.blocks] == [3, 8]
    basis.grow(4)
    assert len(basis.blocks) == 2
    basis.grow(20)
    assert [len(block) for block in basis.blocks] == [3, 8, 8, 1]


@pytest.mark.parametrize(("columns", "rows"), [(1, 64), (1024, 64), (1025, 32), (4096, 16), (8192, 8), (20_000, 8)])
def test_short_rows_come_more_at_a_time(columns, rows):
    basis = blocks(lead=2, capacity=200, columns=columns)
    basis.grow(3)
    assert [len(block) for block in basis.blocks] == [2, rows]


def test_lead_never_exceeds_capacity():
    basis = blocks(lead=9, capacity=5)
    basis.grow(5)
    assert [len(block) for block in basis.blocks] == [5]


def test_more_rows_than_the_capacity_are_refused():
    with pytest.raises(IndexError, match=r"21 rows.*20"):
        blocks(lead=3, capacity=20).grow(21)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 3), (1, 2), (2, 12), (3, 11), (0, 20), (11, 20)])
def test_parts_cover_a_range_once(start, stop):
    basis = blocks(lead=3, capacity=20)
    basis.grow(20)
    for i in range(20):
        basis.row(i)[:] = i
    parts = basis.parts(start, stop)
    places = [i for where, _ in parts for i in range(where.start, where.stop)]
    assert places == list(range(stop - start))
    numbers = [row[0] for _, rows in parts for row in rows]
    assert numbers == list(range(start, stop))


@each_case
def test_check_vector(case):
    check, layout = case.backend.check_vector, case.layout(3)
    check(case.normal(3), layout, "x")
    with pytest.raises(InvalidInputError, match=r"x must be a .* got .*never moves a vector between frameworks"):
        check(case.foreign([1.0, 2.0, 3.0]), layout, "x")
    with pytest.raises(InvalidInputError, match=r"theta must have shape \(3,\), got \(4,\)"):
        check(case.normal(4), layout, "theta")
    with pytest.raises(InvalidInputError, match=r"must have shape \(3,\), got \(3, 1\)"):
        check(case.normal(3, 1), layout, "x")
    with pytest.raises(InvalidInputError, match=rf"dtype {case.dtype}, got .*{case.other_dtype.dtype}.*Convert"):
        check(case.other_dtype.normal(3), layout, "x")


@each_case
def test_layout_refuses_other_dtypes(case):
    with pytest.raises(InvalidInputError, match=r"float32 or .*float64, got .*bool"):
        case.backend.layout(case.array([1.0]) > 0)


@pytest.mark.parametrize("thing", [[1.0, 2.0], 3.0, "text", None, {}], ids=repr)
def test_backend_of_a_stranger(thing):
    with pytest.raises(InvalidInputError, match=rf"no adapter for builtins\.{type(thing).__name__}.*specop\.backends"):
        backend_of(thing)


@each_case
def test_backend_of_goes_by_type(case):
    assert backend_of(case.normal(2)).name == case.framework
