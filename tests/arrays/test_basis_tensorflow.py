"""The immutable blocks in which TensorFlow's vectors are kept."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from specop.arrays.layout import Layout
from specop_tensorflow.basis import Basis


def basis(rows, n=5, capacity=40):
    made = Basis(Layout(n, "float64", "CPU:0"), capacity)
    for i in range(rows):
        made.set_row(i, made.fold(tf.fill([n], tf.cast(i, tf.float64))))
    return made


@pytest.mark.parametrize(
    ("n", "rows", "sizes"),
    [
        *[(5, 0, []), (5, 1, [1]), (5, 2, [2]), (5, 7, [4, 2, 1]), (5, 8, [8]), (5, 21, [16, 4, 1])],
        *[(5, 135, [64, 64, 4, 2, 1]), (5000, 8, [8]), (5000, 21, [8, 8, 4, 1])],
    ],
)
def test_equal_blocks_become_one(n, rows, sizes):
    made = basis(rows, n, capacity=150)
    assert [block.shape[1] for block in made.blocks] == sizes and len(made) == rows
    assert [made.row(i).numpy()[0] for i in range(rows)] == list(range(rows))


@pytest.mark.parametrize("n", [1, 16_384, 16_385, 50_000])
def test_folding_pads_and_unfolding_cuts(n):
    made, vector = basis(0, n), np.random.default_rng(0).standard_normal(n)
    folded = made.fold(tf.constant(vector))
    assert folded.shape[1] <= 16_384 and 0 <= folded.shape.num_elements() - n < folded.shape[0]
    np.testing.assert_array_equal(made.unfold(folded), vector)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 8), (1, 2), (2, 12), (7, 20), (0, 21)])
def test_parts_cover_a_range_once(start, stop):
    parts = basis(21).parts(start, stop)
    assert [i for where, _ in parts for i in range(where.start, where.stop)] == list(range(stop - start))
    assert [rows[0, i, 0] for _, rows in parts for i in range(rows.shape[1])] == list(range(start, stop))


def test_rows_come_in_order_and_within_the_capacity():
    with pytest.raises(IndexError, match="row 3 cannot follow 2 rows"):
        basis(2).set_row(3, basis(0).fold(tf.zeros([5], tf.float64)))
    with pytest.raises(IndexError, match="capacity of 2"):
        basis(3, capacity=2)
    with pytest.raises(IndexError, match="no row"):
        basis(2).row(2)


def test_a_replaced_row_leaves_what_was_read_before_alone():
    made = basis(9)
    before = made.row(4)
    made.set_row(4, made.fold(tf.fill([5], tf.constant(-1.0, tf.float64))))
    assert before.numpy()[0] == 4 and [made.row(i).numpy()[0] for i in (3, 4, 5, 8)] == [3, -1, 5, 8]
