"""ShermanMorrison against dense inverses, the recurrence, conjugate gradients and each other."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import specop
from cases import CASES, each_algorithm_case, each_case
from row_cases import conjugate_gradients, kappa, matrix, normal, recurrence
from specop.errors import InvalidInputError, NonFiniteError
from specop.testing import check_operator

# --- Products ---------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 40),
    st.integers(1, 30),
    st.floats(-4, 2),
    st.integers(1, 12),
    st.sampled_from(["independent", "copies", "rank one", "graded", "zeros"]),
    st.integers(0, 1000),
)
def test_all_ways_agree(n, m, exponent, block, kind, seed):
    damping, rng = 10.0**exponent, np.random.default_rng(seed)
    rows = rng.standard_normal((m, n))
    if kind == "copies":
        rows = rows[rng.integers(0, m, m)]
    elif kind == "rank one":
        rows = np.outer(rng.standard_normal(m), rows[0])
    elif kind == "graded":
        rows *= 10.0 ** -np.arange(m)[:, None]
    elif kind == "zeros":
        rows[rng.integers(0, m)] = 0
    x = rng.standard_normal(n)
    allowed = 100 * np.finfo(float).eps * (1 + kappa(rows, damping)) * np.linalg.norm(x) / damping
    whole = specop.ShermanMorrison(damping=damping, rows=rows) @ x
    inverse = specop.ShermanMorrison(damping=damping, count=m)
    for start in range(0, m, block):
        inverse.update(rows[start : start + block])
        inverse @ x
    for other in (
        inverse @ x,
        np.linalg.solve(matrix(rows, damping), x),
        recurrence(rows, damping, x),
        recurrence(rows[::-1], damping, x),
        conjugate_gradients(rows, damping, x),
        specop.low_rank_update(specop.DiagonalOperator(np.full(n, 1 / damping)), rows.T.copy(), np.full(m, 1 / m)) @ x,
    ):
        assert np.linalg.norm(whole - other) <= allowed


# 300 entries keep the rows of which there are fewer; 30 never do.
SHAPES = [(30, 12), (300, 40), (300, 310)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_algorithm_case
def test_everything_is_of_the_inverse(case, shape):
    n, m = shape
    rows, damping = normal(m, n).astype(case.dtype).astype(float), 0.3
    inverse = specop.ShermanMorrison(
        damping=damping, rows=[case.array(rows[:5]), case.array(rows[5:6]), case.array(rows[6:])]
    )
    expected = np.linalg.inv(matrix(rows, damping))
    allowed = 100 * case.eps * (1 + kappa(rows, damping)) / damping
    x = normal(n, 3, seed=1).astype(case.dtype)
    np.testing.assert_allclose(case.numpy(inverse @ case.array(x)), expected @ x, rtol=0, atol=allowed)
    np.testing.assert_allclose(case.numpy(inverse @ case.array(x[:, 0])), expected @ x[:, 0], rtol=0, atol=allowed)
    np.testing.assert_allclose(case.numpy(inverse.diagonal()), np.diag(expected), rtol=0, atol=allowed)
    np.testing.assert_allclose(case.numpy(inverse.columns([n - 1, 3])), expected[:, [n - 1, 3]], rtol=0, atol=allowed)
    for i, j in ((3, 3), (3, n - 1), (n - 1, 0)):
        assert abs(inverse[i, j] - expected[i, j]) <= allowed
    assert inverse.samples == inverse.operator().samples == m


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_the_operator_keeps_the_laws(case, shape):
    operator = specop.ShermanMorrison(damping=0.3, rows=case.array(normal(*shape[::-1]))).operator()
    check_operator(operator)
    assert operator.is_psd and operator.precision < 1000 * case.eps


@pytest.mark.parametrize("case", [case for case in CASES if case.dtype == np.float32], ids=str)
def test_float32_keeps_digits_that_its_gram_matrix_would_lose(case):
    # Near-copies and |G|^2 / (m d) = 1e9: a float32 Gram matrix, or the recurrence, is off by 0.1.
    rows = normal(20, 300) + 3
    rows = np.concatenate([rows, rows + 1e-3 * normal(20, 300, seed=1)]).astype(np.float32)
    damping = kappa(rows.astype(float), 1.0) / 1e9
    x = normal(300, seed=2).astype(np.float32)
    expected = np.linalg.solve(matrix(rows.astype(float), damping), x)
    inverse = specop.ShermanMorrison(damping=damping, rows=case.array(rows))
    error = np.linalg.norm(case.numpy(inverse @ case.array(x)) - expected) * damping / np.linalg.norm(x)
    assert error <= inverse.operator().precision / 4 < 2e-3


def exact_inverse(rows, damping, x):
    """Multiply by the inverse for two rows in rational arithmetic."""
    (g, h), x, damping = (
        ([Fraction(v) for v in row] for row in rows.tolist()),
        map(Fraction, x.tolist()),
        Fraction(damping),
    )
    x = list(x)
    a, b, c = (sum(p * q for p, q in zip(u, v, strict=True)) for u, v in ((g, g), (g, h), (h, h)))
    a, c = a + 2 * damping, c + 2 * damping
    p, q = (sum(u * v for u, v in zip(row, x, strict=True)) for row in (g, h))
    s, t = (c * p - b * q) / (a * c - b * b), (a * q - b * p) / (a * c - b * b)
    return np.array([float((z - s * u - t * v) / damping) for z, u, v in zip(x, g, h, strict=True)])


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("damping", [1e-10, 1e-12])
def test_the_promised_precision_covers_what_a_gram_matrix_in_double_precision_loses(n, damping):
    """For near-copies it loses a thousand times what vectors do."""
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(5):
        rows, x = rng.normal(size=n) + damping**0.5 * rng.normal(size=(2, n)), rng.normal(size=n)
        operator = specop.ShermanMorrison(damping=damping, rows=rows).operator()
        error = np.linalg.norm(operator @ x - exact_inverse(rows, damping, x)) * damping / np.linalg.norm(x)
        assert error <= operator.precision
        worst = max(worst, error / (1 + kappa(rows, damping) ** 0.5))
    assert worst > 100 * np.finfo(float).eps


@each_case
def test_gram_matrices_are_exact(case):
    x, y = (normal(shape, 20_000, seed=shape) + 2 for shape in (3, 2))
    x, y = x.astype(case.dtype), y.astype(case.dtype)
    blocks = [case.array(x[:1]), case.array(x[1:])]
    found = case.backend.row_products(blocks, [case.array(y)])
    np.testing.assert_allclose(found, x.astype(float) @ y.T.astype(float), rtol=1e-13)
    same = case.backend.row_products(blocks, blocks)
    np.testing.assert_allclose(same, x.astype(float) @ x.T.astype(float), rtol=1e-13)
    assert (same == same.T).all()
    squares = case.backend.block_products(case.array(x), 100)
    assert squares.shape == (200, 100, 100)
    part = x[:, 300:400].astype(float)
    np.testing.assert_allclose(squares[3], part.T @ part, rtol=1e-13)


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_zero_damping():
    rows, x = normal(400, 300), normal(300, seed=1)
    for n in (30, 300):
        inverse = specop.ShermanMorrison(damping=0.0, rows=rows[:, :n])
        np.testing.assert_allclose(inverse @ x[:n], np.linalg.solve(matrix(rows[:, :n], 0), x[:n]), atol=1e-10)
    with pytest.raises(InvalidInputError, match=r"singular: the damping is 0 and 20 rows of length 300 .* is 0\."):
        specop.ShermanMorrison(damping=0.0, rows=rows[:20]) @ x
    wide = np.concatenate([rows, rows[:, :20]], axis=1)[:20]
    with pytest.raises(InvalidInputError, match=r"20 rows of length 310 span"):
        specop.ShermanMorrison(damping=0.0, rows=wide, blocks=[slice(0, 10), slice(10, 320)]) @ np.ones(320)
    flat = rows.copy()
    flat[:, 7] = flat[:, 8]
    for n in (30, 300):
        with pytest.raises(InvalidInputError, match=r"singular within rounding: .* entries 0 to \d+ reach from"):
            specop.ShermanMorrison(damping=0.0, rows=flat[:, :n]) @ x[:n]


def test_damping_below_rounding_is_refused():
    case = next(case for case in CASES if case.dtype == np.float32)
    rows = case.array(normal(5, 300))
    with pytest.raises(InvalidInputError, match=r"damping 1e-15 is too small for products in float32.*no digit"):
        specop.ShermanMorrison(damping=1e-15, rows=rows).operator()
    with pytest.raises(InvalidInputError, match="damping 1e-15 is too small for products in float64"):
        specop.ShermanMorrison(damping=1e-15, rows=normal(5, 300)).operator()
    with pytest.raises(InvalidInputError, match="singular within rounding"):
        specop.ShermanMorrison(damping=1e-18, rows=normal(5, 30)).operator()


@each_case
def test_rows_that_are_no_rows(case):
    inverse = specop.ShermanMorrison(damping=0.1, n=4)
    with pytest.raises(InvalidInputError, match="there are no rows yet"):
        inverse @ case.normal(4)
    with pytest.raises(InvalidInputError, match="no rows to remove"):
        inverse.downdate(case.normal(4))
    with pytest.raises(InvalidInputError, match=r"rows must have n=4 entries, got shape \(2, 5\)"):
        inverse.update(case.normal(2, 5))
    inverse.update(case.normal(2, 4))
    with pytest.raises(InvalidInputError, match=r"each row must have shape \(4,\), got \(5,\)"):
        inverse.update(case.normal(2, 5))
    with pytest.raises(InvalidInputError, match="each row must have dtype"):
        inverse.update(case.other_dtype.normal(2, 4))
    with pytest.raises(InvalidInputError, match=r"non-empty native array of shape \(n,\) or \(b, n\), got \(0, 4\)"):
        inverse.update(case.array(np.zeros((0, 4))))
    bad = np.ones((3, 4))
    bad[1, 2] = np.nan
    with pytest.raises(NonFiniteError, match="row 1 of a block of 3 holds NaN"):
        inverse.update(case.array(bad))
    assert inverse.samples == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": -1.0}, "damping must be a finite number >= 0, got -1.0"),
        ({"damping": np.nan}, "damping must be a finite number"),
        ({"n": 0}, "n must be a positive integer, got 0"),
        ({"count": 1.5}, "count must be a positive integer, got 1.5"),
        ({"count": 3}, "count=3 rows were announced, and 4 have come"),
        ({"store": "disk"}, "store must be 'device' or 'host', got 'disk'"),
        ({"blocks": 0}, "size of blocks must be a positive integer, got 0"),
        ({"blocks": "layer"}, "size of all blocks or a list of consecutive slices without steps, .* got 'layer'"),
        ({"blocks": 2.5}, "size of all blocks or a list of consecutive slices without steps, .* got 2.5"),
        ({"blocks": [slice(0, 6, 2)]}, r"consecutive slices without steps, .* got \[slice\(0, 6, 2\)\]"),
        ({"blocks": [slice(0, 3), slice(4, 6)]}, "consecutive, non-empty slices that cover the entries 0 to 5"),
    ],
    ids=str,
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(InvalidInputError, match=message):
        specop.ShermanMorrison(**{"damping": 0.1, "rows": normal(4, 6), **options})
    with pytest.raises(InvalidInputError, match=r"indices must lie in 0\.\.5, got 6"):
        specop.ShermanMorrison(damping=0.1, rows=normal(4, 6))[0, 6]


# --- Blocks -----------------------------------------------------------------------------------------------------------


def block_diagonal(full, slices):
    mask = np.zeros_like(full)
    for part in slices:
        mask[part, part] = 1
    return full * mask


# Of 700 entries: equal blocks with a rest; one that keeps sums beside two that keep rows; one block of each entry.
PARTITIONS = [
    (32, [slice(i, min(i + 32, 700)) for i in range(0, 700, 32)]),
    ([slice(0, 10), slice(10, 400), slice(400, 700)],) * 2,
    (1, [slice(i, i + 1) for i in range(700)]),
]


@pytest.mark.parametrize("partition", PARTITIONS, ids=["32", "slices", "1"])
@each_algorithm_case
def test_diagonal_blocks(case, partition):
    blocks, slices = partition
    rows, x = normal(25, 700), normal(700, 2, seed=1)
    inverse = specop.ShermanMorrison(damping=0.1, rows=[case.array(rows[:20]), case.array(rows[20:])], blocks=blocks)
    expected = np.linalg.inv(block_diagonal(matrix(rows, 0.1), slices))
    case.close(inverse @ case.array(x), expected @ x)
    case.close(inverse @ case.array(x[:, 0]), expected @ x[:, 0])
    case.close(inverse.diagonal(), np.diag(expected))
    case.close(inverse.columns([5, 450]), expected[:, [5, 450]])
    for i, j in itertools.product((5, 399, 400, 699), repeat=2):
        assert inverse[i, j] == pytest.approx(expected[i, j], abs=100 * case.tol)
    inverse.downdate(case.array(rows[18:22]))
    expected = np.linalg.inv(block_diagonal(matrix(np.delete(rows, range(18, 22), axis=0), 0.1), slices))
    case.close(inverse @ case.array(x), expected @ x)
