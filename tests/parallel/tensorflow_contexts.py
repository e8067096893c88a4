"""Replica contexts, and processes that TF_CONFIG names as one of several: both are refused by name."""

import json

import numpy as np
import pytest
import tensorflow as tf

import specop
from specop.errors import InvalidInputError


def loss(params, batch):
    x, y = batch
    return tf.reduce_mean((tf.linalg.matvec(x, params["w"]) - y) ** 2)


def check_only_outside_of_a_strategy():
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


def check_one_of_several_workers_says_whose_data_are_meant():
    cluster = {"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"type": "worker", "index": 0}}
    params, data = {"w": tf.constant(np.ones(3))}, (np.ones((6, 3)), np.ones(6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_CONFIG", json.dumps(cluster))
        with pytest.raises(InvalidInputError, match=r"one of 2 processes.*parallel=False"):
            specop.objective(loss, params=params, data=data)
        with pytest.raises(InvalidInputError, match="not available yet with this framework"):
            specop.objective(loss, params=params, data=data, parallel=True)
        assert specop.objective(loss, params=params, data=data, parallel=False).loss() == 4.0
