"""A tf.Module with a counter that its forward pass writes to."""

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from stateful.cases import Subject


class Net(tf.Module):
    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(1)
        self.first = tf.Variable(rng.standard_normal((3, 4)), name="first")
        self.second = tf.Variable(rng.standard_normal((4, 3)), name="second")
        self.frozen = tf.Variable(rng.standard_normal(3), name="frozen", trainable=False)
        self.calls = tf.Variable(3, name="calls", trainable=False)

    def __call__(self, x):
        self.calls.assign_add(1)
        return tf.tanh(x @ self.first) @ self.second + self.frozen


def subject():
    model = Net()
    tf.random.set_seed(1)
    return Subject(model, cross_entropy, tf.constant, lambda: state(model), {"likelihood": "categorical"})


def state(model):
    return {
        "variables": [(v.name, id(v), v.numpy(), v.trainable) for v in model.variables],
        "global": global_state(),
    }


def global_state():
    """What tf.random draws from: its generator, and the seeds of operations, which have no public view."""
    return {
        "generator": tf.random.get_global_generator().state.numpy(),
        "operations": context.context()._rng.getstate(),
        "eagerly": tf.config.functions_run_eagerly(),
    }


def cross_entropy(outputs, labels):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs))
