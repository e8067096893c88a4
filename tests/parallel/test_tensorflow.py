"""Replica contexts of tf.distribute are refused by name; variables of a strategy can be read outside of them."""

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError

tf = pytest.importorskip("tensorflow")


def loss(params, batch):
    x, y = batch
    return tf.reduce_mean((tf.linalg.matvec(x, params["w"]) - y) ** 2)


def test_only_outside_of_a_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal(6)
    with strategy.scope():
        params = {"w": tf.Variable(rng.standard_normal(3))}
        with pytest.raises(InvalidInputError, match=r"tf\.distribute\.Strategy\. Call it outside"):
            specop.objective(loss, params=params, data=(x, y))

    def in_a_replica():
        specop.objective(loss, params={"w": tf.constant(rng.standard_normal(3))}, data=(x, y))

    with pytest.raises(InvalidInputError, match=r"tf\.distribute\.Strategy\. Call it outside"):
        strategy.run(in_a_replica)
    H = specop.objective(loss, params={"w": tf.constant(params["w"].numpy())}, data=(x, y)).hessian()
    np.testing.assert_allclose(H.to_dense(), 2 * x.T @ x / 6, atol=1e-12)
