"""What products in TensorFlow hold where outputs are many: arrays as large as the logits, and none of zeros."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import specop
from large_vocabulary import CLASSES, LABELS, ROWS, by_hand
from specop_tensorflow.graphs import Graph
from specop_tensorflow.tiles import drop_tiles
from specop_tensorflow.zeros import drop_zeros


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def network(p, batch):
    return tf.tanh(batch[0] @ p["w"]) @ p["v"]


def of_labels(z, y):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))


def of_distributions(z, y):
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(tf.one_hot(y, CLASSES, dtype=z.dtype), z))


@pytest.mark.parametrize("criterion", [of_labels, of_distributions])
@pytest.mark.parametrize(("kind", "held"), [("ggn", 1), ("hessian", 2)])
def test_what_products_hold(criterion, kind, held):
    """Probabilities, and for a Hessian the gradient."""
    params = {"w": tf.Variable(normal(3, 2)), "v": tf.Variable(normal(2, CLASSES, seed=1))}
    batch = tf.constant(normal(ROWS, 3, seed=2)), tf.constant(LABELS)
    objective = specop.objective(network, criterion, batch, params=params, likelihood="categorical")
    A, v = getattr(objective, kind)(), tf.constant(normal(objective.n, seed=3))
    found = A @ v
    assert held <= A.plan().bytes / (ROWS * CLASSES * 8) < held + 0.3
    expected = by_hand(kind, params, batch[0], objective.unflatten(v))
    expected = objective.flatten({name: tf.constant(part) for name, part in expected.items()})
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


# With the number of sums that are left.
SUMS = {
    "two terms": (lambda x, y: x + y, 1),
    "zeros first": (lambda x, y: tf.zeros_like(x) + y, 0),
    "zeros last": (lambda x, y: x + tf.zeros(3, x.dtype), 0),
    "many zeros": (lambda x, y: y + tf.tile(x, [1000]) * tf.zeros(3000, x.dtype), 0),
    "a product with zeros": (lambda x, y: x + y * tf.zeros(3, x.dtype), 0),
    "zeros in another shape": (lambda x, y: x + tf.squeeze(-tf.zeros((1, 3), x.dtype)), 0),
    "one of three": (lambda x, y: tf.add_n([x, tf.zeros(3, x.dtype), y]), 1),
    "two of three": (lambda x, y: tf.add_n([x, tf.zeros(3, x.dtype), x * tf.zeros(3, x.dtype)]), 0),
    "one after another": (lambda x, y: x + (tf.zeros(3, x.dtype) + tf.zeros(3, x.dtype)), 0),
    "a term that zeros spread": (lambda x, y: x + tf.zeros((2, 3), x.dtype), 1),
    "a number": (lambda x, y: tf.zeros(3, x.dtype) + x[0], 1),
    "not all zeros": (lambda x, y: x + tf.constant([0.0, 0.0, 1.0], x.dtype), 1),
}


@pytest.mark.parametrize("case", SUMS)
def test_sums_leave_zeros_out(case):
    function, expected = SUMS[case]
    x, y = tf.constant([1.0, -2.0, 3.0], tf.float64), tf.constant([0.5, 4.0, -1.0], tf.float64)
    if case == "many zeros":
        y = tf.constant(normal(3000))
    graph = Graph(tf.function(function).get_concrete_function(x, y))
    drop_zeros(graph)
    (found,) = graph.function(graph.inputs, graph.outputs)(x, y)
    np.testing.assert_array_equal(found, function(x, y))
    assert found.shape == function(x, y).shape
    left = [graph.nodes[name].op for name in graph.sources(graph.outputs)]
    assert sum(op in ("Add", "AddN", "AddV2") for op in left) == expected


def tiled(x, *repeats):
    return tf.raw_ops.Tile(input=x, multiples=list(repeats))


# With the number of tiles that are left.
TILES = {
    "a row": (lambda a, b, c: tf.add_n([tiled(a[:1], 4, 1), a]), 0),
    "a column": (lambda a, b, c: a + tiled(a[:, :1], 1, 3), 0),
    "a number": (lambda a, b, c: tf.raw_ops.AddV2(x=tiled(a[:1, :1], 4, 3), y=a), 0),
    "two rows": (lambda a, b, c: a + tiled(a[:2], 2, 1), 1),
    "read elsewhere": (lambda a, b, c: (lambda t: (a + t) * t)(tiled(a[:1], 4, 1)), 1),
    "both": (lambda a, b, c: tf.add_n([tiled(a[:1], 4, 1), tiled(a[:, :1], 1, 3)]), 1),
    "what spreads the other": (lambda a, b, c: tiled(a[:1], 4, 1) + a[:, :1], 1),
    "three": (lambda a, b, c: tf.add_n([tiled(a[:1], 4, 1), a, b]), 1),
}


@pytest.mark.parametrize("case", TILES)
def test_sums_repeat_entries_without_tiles(case):
    function, expected = TILES[case]
    given = [tf.constant(normal(4, 3, seed=seed)) for seed in range(3)]
    graph = Graph(tf.function(function).get_concrete_function(*given))
    drop_tiles(graph)
    (found,) = graph.function(graph.inputs, graph.outputs)(*given)
    np.testing.assert_array_equal(found, function(*given))
    left = [graph.nodes[name].op for name in graph.sources(graph.outputs)]
    assert left.count("Tile") == expected


def read_elsewhere(h, w, dh, dw):
    product = h @ dw
    return tf.sin(product) * (product + dh @ w)


def each(h, w, dh, dw):
    product = h @ dw
    return product, product + dh @ w


# With the shapes of the factors, and the number of products that are left.
PRODUCTS = {
    "a layer": (lambda h, w, dh, dw: dh @ w + h @ dw, [(20, 2), (2, 30)] * 2, 1),
    "of a tape": (lambda h, w, dh, dw: tf.add_n([dh @ w, h @ dw]), [(20, 2), (2, 30)] * 2, 1),
    "a weight the other way": (
        lambda h, w, dh, dw: tf.matmul(dh, w, transpose_b=True) + tf.matmul(h, dw, transpose_b=True),
        [(20, 2), (30, 2)] * 2,
        1,
    ),
    "rows the other way": (
        lambda h, w, dh, dw: tf.matmul(dh, w, transpose_a=True) + tf.matmul(h, dw, transpose_a=True),
        [(2, 20), (2, 30)] * 2,
        1,
    ),
    "one the other way": (
        lambda h, w, dh, dw: dh @ w + tf.matmul(h, dw, transpose_b=True),
        [(20, 2), (2, 30), (20, 2), (30, 2)],
        2,
    ),
    "unlike widths": (lambda a, b, c, d: a @ b + c @ d, [(20, 2), (2, 30), (20, 3), (3, 30)], 1),
    "two of three": (
        lambda a, b, c, d: tf.add_n([a @ b, tf.ones((20, 30), a.dtype), c @ d]),
        [(20, 2), (2, 30)] * 2,
        1,
    ),
    "three": (lambda a, b, c, d: tf.add_n([a @ b, c @ d, a @ d]), [(20, 2), (2, 30)] * 2, 2),
    "one after another": (lambda a, b, c, d: (a @ b + c @ d) + a @ d, [(20, 2), (2, 30)] * 2, 2),
    "read elsewhere": (read_elsewhere, [(20, 2), (2, 30)] * 2, 2),
    "returned too": (each, [(20, 2), (2, 30)] * 2, 2),
    "small beside factors": (lambda h, w, dh, dw: dh @ w + h @ dw, [(20, 20), (20, 30)] * 2, 2),
    "spread over more": (lambda a, b, c, d: a @ b + c @ d, [(20, 2), (2, 30), (1, 2), (2, 30)], 2),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_sums_of_matrix_products_are_one_product(case):
    function, shapes, expected = PRODUCTS[case]
    given = [tf.constant(normal(*shape, seed=seed)) for seed, shape in enumerate(shapes)]
    graph = Graph(tf.function(function).get_concrete_function(*given))
    compiled = graph.function(graph.inputs, graph.outputs)
    for found, right in zip(compiled(*given), tf.nest.flatten(function(*given)), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-12)
        assert found.shape == right.shape
    operations = [operation.type for operation in compiled.__wrapped__.graph.get_operations()]
    assert operations.count("MatMul") == expected
