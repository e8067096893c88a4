"""Errors of objectives on TensorFlow say what to do."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import specop
from specop.errors import InvalidInputError, NondeterministicError, NonFiniteError
from tensorflow_cases import (
    CROSS_ENTROPY,
    close,
    cross_entropy,
    double,
    labels,
    layers,
    mlp,
    normal,
    problem,
)


def counted(model, batch):
    counter.assign_add(1.0)
    return model(batch[0]) * tf.cast(counter, tf.float64)


counter = tf.Variable(1.0)

BAD = {
    "no criterion": (lambda m, b: specop.objective(m, None, b), InvalidInputError, "a module needs a criterion"),
    "sum": (
        lambda m, b: specop.objective(m, keras.losses.MeanSquaredError(reduction="sum"), b),
        InvalidInputError,
        "reduction='sum'",
    ),
    "function of keras": (
        lambda m, b: specop.objective(m, keras.losses.mean_squared_error, b),
        InvalidInputError,
        r"mean_squared_error of Keras takes \(y_true, y_pred\)",
    ),
    "independent": (
        lambda m, b: specop.objective(m, lambda o, y: tf.reduce_mean(tf.stop_gradient(o)), b).hessian().to_dense(),
        InvalidInputError,
        "does not depend on any of the 4 selected parameters",
    ),
    "not a pair": (
        lambda m, b: specop.objective(m, CROSS_ENTROPY, {"x": b[0]}).loss(),
        InvalidInputError,
        r"a batch must be a pair \(x, y\).*dict of 1",
    ),
    "python": (
        lambda m, b: specop.objective(
            m, lambda o, y: tf.reduce_mean(o) + tf.py_function(lambda x: x, [o[0, 0]], tf.float64), b
        ).loss(),
        InvalidInputError,
        "calls Python",
    ),
    "random": (
        lambda m, b: specop.objective(
            m, lambda o, y: tf.reduce_mean(o * tf.random.normal(o.shape, dtype=o.dtype)), b
        ).loss(),
        NondeterministicError,
        "draws random numbers.*RandomStandardNormal",
    ),
    "seed generator": (
        lambda m, b: specop.objective(
            m, lambda o, b: cross_entropy(o, b[1]), b, forward=lambda m, b: keras.random.dropout(m(b[0]), 0.5)
        ).loss(),
        NondeterministicError,
        "reads and updates a variable .* pass fixed_randomness=0",
    ),
    "writes and reads": (
        lambda m, b: specop.objective(m, lambda o, b: cross_entropy(o, b[1]), b, forward=counted).loss(),
        InvalidInputError,
        "writes to the variable .* and reads it again",
    ),
    "ragged": (
        lambda m, b: specop.objective(m, CROSS_ENTROPY, (tf.ragged.constant([[1.0], [2.0, 3.0]]), b[1])).loss(),
        InvalidInputError,
        "RaggedTensor; only dense",
    ),
    "assertion": (
        lambda m, b: specop.objective(m, asserting, b).loss(),
        tf.errors.InvalidArgumentError,
        "labels below two",
    ),
}


def asserting(outputs, y):
    tf.debugging.assert_less(y, 2, "labels below two")
    return cross_entropy(outputs, y)


@pytest.mark.parametrize("name", BAD)
def test_errors_say_what_to_do(name):
    call, kind, message = BAD[name]
    model, _, batch = problem("mlp")
    with pytest.raises(kind, match=message):
        call(model, batch)
    assert counter.numpy() == 1.0


def test_infinite_weights_are_named():
    model, criterion, batch = problem("mlp")
    model.get_layer("head").bias.assign([np.nan, 0, 0])
    with pytest.raises(NonFiniteError, match="hold NaN or infinity: head/bias"):
        specop.objective(model, criterion, batch).gradient()


def test_a_model_without_variables_is_refused():
    with pytest.raises(InvalidInputError, match="has no variables yet"):
        specop.objective(keras.Sequential([layers.Dense(2)]), CROSS_ENTROPY, (normal(2, 3), labels(2)))


def activity_penalty():
    return mlp(activity_regularizer=keras.regularizers.L2(0.3))


def added_loss():
    class Penalized(layers.Layer):
        def call(self, x):
            self.add_loss(0.2 * tf.reduce_mean(x**2))
            return x

    with double():
        return keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), Penalized(), layers.Dense(3)])


@pytest.mark.parametrize("make", [lambda: mlp(kernel_regularizer="l2"), activity_penalty, added_loss])
def test_losses_of_the_layers_belong_to_the_loss(make):
    """Regularizers, activity losses and add_loss, which `fit` minimizes; the reference is Keras' own `evaluate`."""
    model, batch = make(), (normal(5, 3), labels(5))
    with double():
        model.compile("sgd", CROSS_ENTROPY)
        expected = model.evaluate(*batch, batch_size=5, verbose=0)
    objective = specop.objective(model, CROSS_ENTROPY, batch)
    close(objective.loss(), expected, 1e-6)
    assert abs(float(objective.loss()) - float(CROSS_ENTROPY(batch[1], model(batch[0])))) > 1e-3
    theta, H = objective.theta.numpy(), objective.hessian().to_dense().numpy()
    for i in (0, 7):
        step = 1e-5 * np.eye(objective.n)[i]
        ahead, behind = (objective.gradient(tf.constant(theta + sign * step)).numpy() for sign in (1, -1))
        np.testing.assert_allclose(H[:, i], (ahead - behind) / 2e-5, atol=1e-8)
    for matrix in (objective.ggn, objective.fisher, objective.gradient_covariance):
        with pytest.raises(InvalidInputError, match="the criterion reads the parameters itself"):
            matrix() @ objective.theta


def test_products_that_are_zero_everywhere():
    """A criterion without curvature: the traced product does not depend on the vector."""
    x, y = normal(6, 4), normal(6, 1)
    with double():
        linear = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        curved = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh"), layers.Dense(1)])
        criterion = keras.losses.MeanAbsoluteError()
    for model, name in ((linear, "hessian"), (curved, "ggn")):
        objective = specop.objective(model, criterion, (x, y))
        product = getattr(objective, name)() @ objective.theta
        np.testing.assert_array_equal(product, np.zeros(objective.n))


def test_matrices_of_the_outputs_have_no_penalty():
    """They would lack it, and the covariance F - g g' would not even be semidefinite."""
    model, batch = mlp(), (normal(5, 3), labels(5))

    def criterion(outputs, y):
        return cross_entropy(outputs, y) + sum(tf.reduce_sum(v.value**2) for v in model.trainable_variables)

    objective = specop.objective(model, criterion, batch)
    plain = specop.objective(model, cross_entropy, batch).hessian().to_dense()
    close(objective.hessian().to_dense(), plain + 2 * tf.eye(31, dtype=tf.float64))
    for call in (
        lambda: objective.ggn() @ objective.theta,
        lambda: objective.gradient_covariance() @ objective.theta,
        lambda: list(objective.per_sample_gradients()),
    ):
        with pytest.raises(InvalidInputError, match=r"criterion reads the parameters itself.*identity_like"):
            call()


def test_a_function_that_reads_its_variable_itself_is_refused():
    w = tf.Variable(normal(3, 3))
    objective = specop.objective(lambda p, x: tf.reduce_mean(tf.tanh(x @ p) @ w), params=w, data=normal(5, 3))
    with pytest.raises(InvalidInputError, match="reads the parameter 'params' itself, not the value that it is given"):
        objective.gradient()


def test_a_variable_as_data_is_watched():
    model, criterion, (x, y) = problem("mlp")
    x = tf.Variable(x)
    H = specop.objective(model, criterion, (x, y)).hessian()
    H @ tf.ones([31], tf.float64)
    x.assign_add(tf.ones_like(x))
    with pytest.raises(NondeterministicError, match="written into after it was read"):
        H @ tf.ones([31], tf.float64)


def test_keras_on_another_backend_is_refused(monkeypatch):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InvalidInputError, match="runs on the jax backend"):
        specop.objective(model, keras.losses.MeanSquaredError(), (np.ones((2, 2)), np.ones((2, 1))))
