"""What products in TensorFlow hold where outputs are many: arrays as large as the logits, and none of zeros."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import specop
from large_vocabulary import CLASSES, LABELS, ROWS, by_hand
from specop_tensorflow.graphs import Graph
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
