"""Where ShermanMorrison keeps rows, in what precision, and how much memory that takes."""

import gc
import tracemalloc

import numpy as np
import pytest

import specop
from cases import each_algorithm_case
from row_cases import dense, matrix, normal


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("store", ["device", "host"])
@each_algorithm_case
def test_stored_rows_give_the_same_inverse(case, store, n):
    rows, x = normal(12, n), normal(n, 2, seed=1)
    inverse = specop.ShermanMorrison(damping=0.1, rows=case.array(rows), store=store)
    expected = np.linalg.inv(matrix(rows, 0.1))
    case.close(inverse @ case.array(x[:, 0]), expected @ x[:, 0])
    case.close(inverse @ case.array(x), expected @ x)
    case.close(inverse.diagonal(), np.diag(expected))
    half = specop.ShermanMorrison(damping=0.1, rows=case.array(rows), store=store, half=True)
    np.testing.assert_allclose(case.numpy(half @ case.array(x)), expected @ x, atol=0.1)
    # Rows of any length are rounded alike: tiny ones do not vanish.
    tiny = specop.ShermanMorrison(damping=0.1 * 2.0**-40, rows=case.array(2.0**-20 * rows), store=store, half=True)
    case.close(case.backend.scale_(tiny @ case.array(x[:, 0]), 2.0**-40), case.numpy(half @ case.array(x[:, 0])))
    # What is inverted are the rounded rows, as exactly as others would be.
    image = case.numpy(half @ case.array(x[:, 0])).astype(float)
    symmetric = case.numpy(half @ case.array(x[:, 1])).astype(float)
    assert x[:, 1] @ image == pytest.approx(x[:, 0] @ symmetric, abs=100 * case.tol)
    half.downdate(case.array(rows[3]))
    again = specop.ShermanMorrison(damping=0.1, rows=case.array(np.delete(rows, 3, axis=0)), store=store, half=True)
    np.testing.assert_allclose(case.numpy(half.diagonal()), case.numpy(again.diagonal()), atol=0.02)


def test_half_inverts_the_matrix_of_the_rounded_rows():
    rows = normal(12, 300)
    scale = 2.0 ** np.ceil(np.log2(np.linalg.norm(rows, axis=1).max() / 256))
    rounded = (rows / scale).astype(np.float16).astype(float) * scale
    for store in ("device", "host"):
        inverse = specop.ShermanMorrison(damping=1e-3, rows=rows, store=store, half=True)
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
        inverse = specop.ShermanMorrison(damping=0.1, rows=blocks, **options)
        inverse @ blocks[0][0]
        return inverse

    held, peak = grown(multiplied)
    assert held < 0.1 and peak < 0.3
    held, peak = grown(lambda: multiplied(half=True))
    assert 0.5 < held < 0.6 and peak < 2

    def streamed():
        inverse = specop.ShermanMorrison(damping=0.1)
        for i in range(150):
            inverse.update(normal(50, 200, seed=i))
        inverse @ normal(200)
        return inverse

    gc.collect()
    # 7,500 rows of 12 MB leave the sum of their products, its inverse and what comes at once.
    held, peak = (share * size / (7_500 * 200 * 8) for share in grown(streamed))
    assert held < 0.1 and peak < 0.4
