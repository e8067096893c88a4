"""ShermanMorrison and low_rank_update against dense inverses, the recurrence, conjugate gradients and each other."""

import gc
import itertools
import tracemalloc

import numpy as np
import pytest
import scipy.sparse.linalg
from hypothesis import given
from hypothesis import strategies as st

import specop
from cases import CASES, each_algorithm_case, each_case
from specop.errors import InvalidInputError, NonFiniteError
from specop.testing import check_operator


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def matrix(rows, damping, count=None):
    return damping * np.eye(rows.shape[1]) + rows.T @ rows / (count or len(rows))


def kappa(rows, damping, count=None):
    return np.linalg.norm(rows, 2) ** 2 / ((count or len(rows)) * damping)


def recurrence(rows, damping, x):
    """F^-1 x by the formula of Sherman and Morrison, row after row."""
    m, solved = len(rows), []
    for g in rows:
        h = g / damping
        for other, denominator in solved:
            h = h - other * (other @ g) / denominator
        solved.append((h, m + g @ h))
    return x / damping - sum(h * (h @ x) / denominator for h, denominator in solved)


def conjugate_gradients(rows, damping, x):
    A = scipy.sparse.linalg.LinearOperator(
        (len(x), len(x)), lambda v: damping * v + rows.T @ (rows @ v) / len(rows), dtype=float
    )
    return scipy.sparse.linalg.cg(A, x, rtol=1e-15, maxiter=20 * len(x))[0]


def dense(inverse):
    return inverse.operator().to_dense()


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
    whole = specop.ShermanMorrison(damping, rows=rows) @ x
    inverse = specop.ShermanMorrison(damping, count=m)
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
    inverse = specop.ShermanMorrison(damping, rows=[case.array(rows[:5]), case.array(rows[5:6]), case.array(rows[6:])])
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
    operator = specop.ShermanMorrison(0.3, rows=case.array(normal(*shape[::-1]))).operator()
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
    inverse = specop.ShermanMorrison(damping, rows=case.array(rows))
    error = np.linalg.norm(case.numpy(inverse @ case.array(x)) - expected) * damping / np.linalg.norm(x)
    assert error <= inverse.operator().precision / 4 < 2e-3


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


# --- Rows come and go -------------------------------------------------------------------------------------------------


@each_algorithm_case
def test_the_mean_is_over_the_rows_so_far(case):
    rows, x = normal(20, 300), normal(300, seed=1)
    inverse = specop.ShermanMorrison(0.1, n=300)
    for start in range(0, 20, 5):
        inverse.update(case.array(rows[start : start + 5]))
        case.close(inverse @ case.array(x), np.linalg.solve(matrix(rows[: start + 5], 0.1), x))
    fixed = specop.ShermanMorrison(0.1, rows=case.array(rows[:5]), count=20)
    case.close(fixed @ case.array(x), np.linalg.solve(matrix(rows[:5], 0.1, count=20), x))


@pytest.mark.parametrize("n", [30, 300])
@each_algorithm_case
def test_removing_rows_is_as_if_they_had_never_come(case, n):
    rows = normal(20, n)
    inverse = specop.ShermanMorrison(0.1)
    for start in range(0, 20, 4):
        inverse.update(case.array(rows[start : start + 4]))
    early = inverse.operator()
    inverse.downdate(case.array(rows[[17, 3, 4]]))
    inverse.downdate(case.array(rows[5]))
    left = np.delete(rows, [3, 4, 5, 17], axis=0)
    case.close(dense(inverse), np.linalg.inv(matrix(left, 0.1)))
    inverse.downdate(case.array(rows[6:8]))
    assert inverse.samples == 14
    inverse.update(case.array(rows[3]))
    left = np.delete(rows, [4, 5, 6, 7, 17], axis=0)
    case.close(dense(inverse), np.linalg.inv(matrix(left, 0.1)))
    case.close(case.backend.copy(inverse.diagonal()), np.diag(np.linalg.inv(matrix(left, 0.1))))
    # An operator belongs to the rows of its time.
    case.close(early.to_dense(), np.linalg.inv(matrix(rows, 0.1)))


def test_all_rows_may_go():
    rows = normal(3, 300)
    inverse = specop.ShermanMorrison(0.5, rows=rows)
    inverse.downdate(rows)
    np.testing.assert_allclose(inverse @ rows[0], 2 * rows[0])
    np.testing.assert_allclose(inverse.diagonal(), 2)
    assert inverse.samples == 0 and inverse[3, 3] == 2


def test_a_sliding_window_holds_the_blocks_that_are_in_it():
    rows = normal(40, 1000)
    inverse = specop.ShermanMorrison(0.1, rows=rows[:4])
    for start in range(4, 40, 4):
        inverse.update(rows[start : start + 4].copy())
        inverse.downdate(rows[start - 4 : start])
    np.testing.assert_allclose(dense(inverse), np.linalg.inv(matrix(rows[36:], 0.1)), atol=1e-11)
    assert len(inverse._rows) == 4


@pytest.mark.parametrize("n", [30, 300])
def test_rows_that_are_not_there_cannot_go(n):
    rows = normal(6, n)
    inverse = specop.ShermanMorrison(0.1, rows=rows[:5])
    before = inverse @ rows[0]
    with pytest.raises(InvalidInputError, match="row 1 of those to remove is not among the 4 rows"):
        inverse.downdate(rows[[0, 5]])
    with pytest.raises(InvalidInputError, match=r"row 1 .* not as often"):
        inverse.downdate(rows[[2, 2]])
    np.testing.assert_array_equal(inverse @ rows[0], before)
    twice = specop.ShermanMorrison(0.1, rows=rows[[2, 2, 3]])
    twice.downdate(rows[[2]])
    np.testing.assert_allclose(dense(twice), np.linalg.inv(matrix(rows[[2, 3]], 0.1)), atol=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=25), st.sampled_from([20, 260]))
def test_any_order_of_updates(steps, n):
    rows, held = normal(6, n), [0]
    inverse = specop.ShermanMorrison(0.2, rows=rows[:1])
    for add, which in steps:
        if add or which not in held:
            inverse.update(rows[which])
            held.append(which)
        else:
            inverse.downdate(rows[which])
            held.remove(which)
    expected = matrix(rows[held], 0.2) if held else 0.2 * np.eye(n)
    x = normal(n, seed=1)
    np.testing.assert_allclose(inverse @ x, np.linalg.solve(expected, x), atol=1e-11)


def test_rows_turn_into_sums_when_there_are_enough_of_them():
    rows, x = normal(700, 300), normal(300, seed=1)
    inverse = specop.ShermanMorrison(0.1)
    for start in range(0, 700, 100):
        inverse.update(rows[start : start + 100])
        if start == 100:
            inverse.downdate(rows[50:60])
    left = np.delete(rows, np.arange(50, 60), axis=0)
    np.testing.assert_allclose(inverse @ x, np.linalg.solve(matrix(left, 0.1), x), atol=1e-11)
    inverse.downdate(rows[300:320])
    left = np.delete(left, np.arange(290, 310), axis=0)
    np.testing.assert_allclose(inverse @ x, np.linalg.solve(matrix(left, 0.1), x), atol=1e-11)
    assert len(inverse._rows) == 0


@pytest.mark.parametrize("n", [30, 300])
def test_a_buffer_that_is_used_again_is_noticed(n):
    buffer, inverse = np.ones(n), specop.ShermanMorrison(0.1)
    inverse.update(normal(n))
    inverse.update(buffer)
    buffer[3] = 2
    with pytest.raises(InvalidInputError, match=r"row 1 was written to after it was added.*copy"):
        inverse @ buffer


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_zero_damping():
    rows, x = normal(400, 300), normal(300, seed=1)
    for n in (30, 300):
        inverse = specop.ShermanMorrison(0.0, rows=rows[:, :n])
        np.testing.assert_allclose(inverse @ x[:n], np.linalg.solve(matrix(rows[:, :n], 0), x[:n]), atol=1e-10)
    with pytest.raises(InvalidInputError, match=r"singular: the damping is 0 and 20 rows of length 300 .* is 0\."):
        specop.ShermanMorrison(0.0, rows=rows[:20]) @ x
    flat = rows.copy()
    flat[:, 7] = flat[:, 8]
    for n in (30, 300):
        with pytest.raises(InvalidInputError, match=r"singular within rounding: .* entries 0 to \d+ reach from"):
            specop.ShermanMorrison(0.0, rows=flat[:, :n]) @ x[:n]


def test_damping_below_rounding_is_refused():
    case = next(case for case in CASES if case.dtype == np.float32)
    rows = case.array(normal(5, 300))
    with pytest.raises(InvalidInputError, match=r"damping 1e-15 is too small for products in float32.*no digit"):
        specop.ShermanMorrison(1e-15, rows=rows).operator()
    with pytest.raises(InvalidInputError, match="singular within rounding"):
        specop.ShermanMorrison(1e-18, rows=normal(5, 30)).operator()


@each_case
def test_rows_that_are_no_rows(case):
    inverse = specop.ShermanMorrison(0.1, n=4)
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
        ({"blocks": [slice(0, 3), slice(4, 6)]}, "consecutive, non-empty slices that cover the entries 0 to 5"),
    ],
    ids=str,
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(InvalidInputError, match=message):
        specop.ShermanMorrison(**{"damping": 0.1, "rows": normal(4, 6), **options})
    with pytest.raises(InvalidInputError, match=r"indices must lie in 0\.\.5, got 6"):
        specop.ShermanMorrison(0.1, rows=normal(4, 6))[0, 6]


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
    inverse = specop.ShermanMorrison(0.1, rows=[case.array(rows[:20]), case.array(rows[20:])], blocks=blocks)
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


# --- Storage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("store", ["device", "host"])
@each_algorithm_case
def test_stored_rows_give_the_same_inverse(case, store, n):
    rows, x = normal(12, n), normal(n, 2, seed=1)
    inverse = specop.ShermanMorrison(0.1, rows=case.array(rows), store=store)
    expected = np.linalg.inv(matrix(rows, 0.1))
    case.close(inverse @ case.array(x[:, 0]), expected @ x[:, 0])
    case.close(inverse @ case.array(x), expected @ x)
    case.close(inverse.diagonal(), np.diag(expected))
    half = specop.ShermanMorrison(0.1, rows=case.array(rows), store=store, half=True)
    np.testing.assert_allclose(case.numpy(half @ case.array(x)), expected @ x, atol=0.1)
    # Rows of any length are rounded alike: tiny ones do not vanish.
    tiny = specop.ShermanMorrison(0.1 * 2.0**-40, rows=case.array(2.0**-20 * rows), store=store, half=True)
    case.close(case.backend.scale_(tiny @ case.array(x[:, 0]), 2.0**-40), case.numpy(half @ case.array(x[:, 0])))
    # What is inverted are the rounded rows, as exactly as others would be.
    image = case.numpy(half @ case.array(x[:, 0])).astype(float)
    symmetric = case.numpy(half @ case.array(x[:, 1])).astype(float)
    assert x[:, 1] @ image == pytest.approx(x[:, 0] @ symmetric, abs=100 * case.tol)
    half.downdate(case.array(rows[3]))
    again = specop.ShermanMorrison(0.1, rows=case.array(np.delete(rows, 3, axis=0)), store=store, half=True)
    np.testing.assert_allclose(case.numpy(half.diagonal()), case.numpy(again.diagonal()), atol=0.02)


def test_half_inverts_the_matrix_of_the_rounded_rows():
    rows = normal(12, 300)
    scale = 2.0 ** np.ceil(np.log2(np.linalg.norm(rows, axis=1).max() / 256))
    rounded = (rows / scale).astype(np.float16).astype(float) * scale
    for store in ("device", "host"):
        inverse = specop.ShermanMorrison(1e-3, rows=rows, store=store, half=True)
        np.testing.assert_allclose(dense(inverse), np.linalg.inv(matrix(rounded, 1e-3)), atol=1e-9 / 1e-3)


def test_memory_is_bounded():
    n, blocks = 200_000, [normal(20, 200_000, seed=i).astype(np.float32) for i in range(3)]
    size = 60 * n * 4

    def grown(use):
        gc.collect()
        tracemalloc.start()
        kept = use()
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del kept
        return held / size, peak / size

    def multiplied(**options):
        inverse = specop.ShermanMorrison(0.1, rows=blocks, **options)
        inverse @ blocks[0][0]
        return inverse

    held, peak = grown(multiplied)
    assert held < 0.1 and peak < 0.3
    held, peak = grown(lambda: multiplied(half=True))
    assert 0.5 < held < 0.6 and peak < 2

    def streamed():
        inverse = specop.ShermanMorrison(0.1)
        for i in range(300):
            inverse.update(normal(50, 400, seed=i))
        inverse @ normal(400)
        return inverse

    gc.collect()
    # 15,000 rows of 48 MB leave the sum of their products, its inverse and what comes at once.
    held, peak = (share * size / (15_000 * 400 * 8) for share in grown(streamed))
    assert held < 0.1 and peak < 0.4


# --- Objectives -------------------------------------------------------------------------------------------------------


def test_rows_of_an_objective_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    data = [(torch.randn(k, 4).double(), torch.randint(2, (k,))) for k in (7, 5)]
    objective = specop.objective(model, torch.nn.functional.cross_entropy, data)
    fisher = objective.fisher("empirical")
    inverse = objective.inverse_fisher(0.1)
    x = torch.randn(objective.n).double()
    torch.testing.assert_close(inverse @ (fisher @ x + 0.1 * x), x, rtol=0, atol=1e-12)
    tree = objective.unflatten(x)
    found = inverse @ tree
    assert list(found) == list(objective.names) == list(objective.slices)
    torch.testing.assert_close(objective.flatten(found), inverse @ x)
    for name, part in objective.slices.items():
        torch.testing.assert_close(x[part], tree[name].reshape(-1))
    blocks = objective.inverse_fisher(0.1, blocks=objective.slices.values())
    part = objective.slices["2.weight"]
    expected = np.linalg.inv((fisher.to_dense().numpy() + 0.1 * np.eye(objective.n))[part, part])
    np.testing.assert_allclose(blocks.operator().to_dense().numpy()[part, part], expected, atol=1e-12)
    elsewhere = objective.inverse_fisher(0.1, 2 * objective.theta)
    at = objective.fisher("empirical", 2 * objective.theta)
    torch.testing.assert_close(elsewhere @ (at @ x + 0.1 * x), x, rtol=0, atol=1e-12)
    with pytest.raises(InvalidInputError, match=r"got Objective\. .* call objective\.inverse_fisher\(damping\)"):
        specop.ShermanMorrison(0.1, rows=objective)


# --- A + U C V' -------------------------------------------------------------------------------------------------------


@each_algorithm_case
def test_low_rank_update(case):
    n, k = 40, 3
    A = normal(n, n) + 10 * np.eye(n)
    U, V, C, x = normal(n, k, seed=1), normal(n, k, seed=2), normal(k, k, seed=3), normal(n, seed=4)
    U, V, A = (array.astype(case.dtype).astype(float) for array in (U, V, A))
    inverse = specop.DenseOperator(case.array(np.linalg.inv(A)))
    for middle, right in ((C, V), (None, V), (np.array([1.0, 0.0, -2.0]), None), (np.zeros((k, k)), V)):
        native = None if right is None else case.array(right)
        updated = specop.low_rank_update(inverse, case.array(U), middle, native)
        full = np.eye(k) if middle is None else np.diag(middle) if middle.ndim == 1 else middle
        whole = A + U @ full @ (U if right is None else right).T
        allowed = 100 * case.eps * np.linalg.cond(whole) * np.linalg.norm(x)
        found = case.numpy(updated @ case.array(x))
        np.testing.assert_allclose(found, np.linalg.solve(whole, x), rtol=0, atol=allowed)
        found = case.numpy(updated.T @ case.array(x))
        np.testing.assert_allclose(found, np.linalg.solve(whole.T, x), rtol=0, atol=allowed)


def test_an_update_and_its_downdate_cancel():
    d, U, x = np.linspace(1, 2, 30), normal(30, 4), normal(30, seed=1)
    inverse = specop.DiagonalOperator(1 / d)
    updated = specop.low_rank_update(inverse, U, np.full(4, 0.5))
    assert updated.is_symmetric
    check_operator(updated)
    back = specop.low_rank_update(updated, U, np.full(4, -0.5))
    np.testing.assert_allclose(back @ x, x / d, atol=1e-13)


def test_updates_of_the_inverse_of_rows():
    rows, x = normal(20, 300), normal(300, seed=1)
    first = specop.ShermanMorrison(0.1, rows=rows[:15], count=20).operator()
    more = specop.low_rank_update(first, rows[15:].T, np.full(5, 1 / 20))
    assert more.is_psd
    np.testing.assert_allclose(more @ x, specop.ShermanMorrison(0.1, rows=rows) @ x, atol=1e-12)


def test_updates_that_cannot_be():
    inverse, u = specop.DiagonalOperator(np.ones(4)), np.eye(4)[:, :1]
    with pytest.raises(InvalidInputError, match=r"A \+ U C V' is singular within rounding: .* condition number"):
        specop.low_rank_update(inverse, np.eye(4)[:, :2], np.array([-1.0, 1.0]))
    with pytest.raises(InvalidInputError, match=r"C must be a finite array of shape \(1, 1\) or \(1,\)"):
        specop.low_rank_update(inverse, u, np.ones((2, 2)))
    with pytest.raises(InvalidInputError, match="as many columns"):
        specop.low_rank_update(inverse, u, None, np.eye(4)[:, :2])
    with pytest.raises(InvalidInputError, match=r"each column of U must have shape \(4,\), got \(3,\)"):
        specop.low_rank_update(inverse, np.eye(3))
    with pytest.raises(InvalidInputError, match=r"U must be a non-empty native \(4, k\) array, got \(4,\)"):
        specop.low_rank_update(inverse, np.ones(4))
    with pytest.raises(InvalidInputError, match="only a square matrix"):
        specop.low_rank_update(np.ones((3, 4)), u)
    with pytest.raises(InvalidInputError, match="hold NaN"):
        specop.low_rank_update(inverse, np.full((4, 1), np.nan))
