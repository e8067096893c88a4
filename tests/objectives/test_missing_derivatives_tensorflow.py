"""Operations whose second derivative TensorFlow takes for zero: right all the same, or refused by name.

What TensorFlow itself computes is no reference here; central differences of its gradients are.
"""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import specop
from specop.errors import InvalidInputError
from specop_tensorflow.missing_derivatives import differentiable_moments

layers = keras.layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def model_with(*inner, shape=(4, 4, 2)):
    # Keras casts the input of a layer to that layer's type.
    model = keras.Sequential(
        [
            layers.Input(shape, dtype="float64"),
            layers.Dense(4, "tanh", dtype="float64"),
            *inner,
            layers.Flatten(dtype="float64"),
            layers.Dense(3, dtype="float64"),
        ]
    )
    return model, keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")


def data(n=6, shape=(4, 4, 2)):
    return normal(n, *shape), np.arange(n) % 3


def check_products(objective):
    """Compare products with the Hessian with central differences of the gradient."""
    theta, H, step = objective.theta, objective.hessian(), 1e-5
    for seed in range(2):
        v = tf.constant(normal(objective.n, seed=seed)) / objective.n**0.5
        difference = (objective.gradient(theta + step * v) - objective.gradient(theta - step * v)) / (2 * step)
        np.testing.assert_allclose(H @ v, difference, rtol=0, atol=1e-7 * np.abs(difference).max())


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (lambda: layers.LayerNormalization(dtype="float64"), {}),
        (lambda: layers.LayerNormalization(axis=(1, 2), dtype="float64"), {}),
        (lambda: layers.GroupNormalization(2, dtype="float64"), {}),
        (lambda: layers.UnitNormalization(dtype="float64"), {}),
        (lambda: layers.BatchNormalization(dtype="float64"), {"fixed_randomness": 0}),
    ],
    ids=["layer", "layer over two axes", "group", "unit", "batch, in training mode"],
)
def test_layers_that_normalize(layer, options):
    keras.utils.set_random_seed(0)
    model, criterion = model_with(layer())
    check_products(specop.objective(model, criterion, data(), **options))


def test_moments_of_version_1():
    def loss(w, x):
        mean, variance = tf.compat.v1.nn.moments(x * w, [0], keep_dims=True)
        return tf.reduce_mean((x * w - mean) ** 4 / (variance + 1.0))

    check_products(specop.objective(loss, params=tf.constant(normal(3)), data=tf.constant(normal(5, 3, seed=1))))


def test_moments_in_half_precision_are_those_of_tensorflow():
    x = tf.constant(normal(4, 5), tf.float16)
    expected = tf.nn.moments(x, [1])
    with differentiable_moments():
        for found, value in zip(tf.nn.moments(x, [1]), expected, strict=True):
            assert found.dtype == tf.float16
            np.testing.assert_array_equal(found, value)


def test_moments_are_left_as_they_were():
    before = tf.nn.moments, tf.compat.v1.nn.moments

    def loss(w, x):
        assert tf.nn.moments is not before[0]
        raise RuntimeError("of the loss")

    with pytest.raises(RuntimeError, match="of the loss"):
        specop.objective(loss, params=tf.ones(3), data=tf.ones(3)).loss()
    assert (tf.nn.moments, tf.compat.v1.nn.moments) == before


def test_moments_that_were_traced_before_are_refused():
    @tf.function
    def normalized(x):
        mean, variance = tf.nn.moments(x, [0])
        return (x - mean) / tf.sqrt(variance + 1.0)

    x, w = tf.constant(normal(5, 3)), tf.constant(normal(3))
    normalized(x * w)
    objective = specop.objective(lambda w, x: tf.reduce_sum(normalized(x * w) ** 4), params=w, data=x)
    with pytest.raises(InvalidInputError, match=r"a variance takes its mean for a constant .*tf\.function"):
        objective.hessian() @ tf.ones(3, tf.float64)


def upsampled(x):
    return tf.cast(tf.image.resize(x, (6, 6)), tf.float64)


def quantized(x):
    return tf.cast(tf.quantization.fake_quant_with_min_max_args(tf.cast(x, tf.float32)), tf.float64)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (upsampled, r"bilinear tf\.image\.resize.*ResizeBilinearGrad"),
        (tf.function(upsampled), r"bilinear tf\.image\.resize.*ResizeBilinearGrad"),
        (quantized, r"fake_quant_with_min_max_args .* constant .*finite_difference_hessian"),
    ],
    ids=["resized", "resized in a function", "quantized"],
)
def test_what_counts_as_constant_is_refused(function, message):
    def loss(w, x):
        return tf.reduce_mean(function(x * w) ** 2)

    x, w = tf.constant(normal(2, 3, 3, 4)), tf.constant(normal(4))
    objective = specop.objective(loss, params=w, data=x)
    with pytest.raises(InvalidInputError, match=message):
        objective.hessian() @ tf.ones(4, tf.float64)
    # In front of all parameters it is part of the data.
    fine = specop.objective(lambda w, x: tf.reduce_mean((function(x) * w) ** 2), params=w, data=x)
    check_products(fine)


def test_labels_that_depend_on_the_parameters():
    def loss(labels):
        def entropy(w, x):
            logits = x * w
            return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels(logits), logits))

        return specop.objective(entropy, params=tf.constant(normal(3)), data=tf.constant(normal(5, 3, seed=1)))

    with pytest.raises(InvalidInputError, match=r"takes labels for constants.*log_softmax"):
        loss(tf.nn.softmax).hessian() @ tf.ones(3, tf.float64)
    check_products(loss(lambda z: tf.one_hot(tf.argmax(z, 1), 3, dtype=tf.float64)))


@pytest.mark.parametrize("function", [tf.linalg.det, lambda m: tf.linalg.det(m @ tf.transpose(m))])
def test_derivatives_that_fail_at_a_singular_matrix_are_refused_by_name(function):
    params = [tf.Variable(np.ones((3, 3)))]
    objective = specop.objective(lambda p, x: tf.reduce_sum(function(p[0]) ** 2), params=params, data=tf.zeros((1, 1)))
    with pytest.raises(InvalidInputError, match="derivative of an operation fails at this point"):
        specop.eigsh(objective.hessian(), k=1)


def test_an_operation_of_the_users_own_fails_with_its_own_error():
    params = [tf.Variable(np.ones((3, 3)))]
    objective = specop.objective(lambda p, x: tf.reduce_sum(tf.linalg.inv(p[0])), params=params, data=tf.zeros((1, 1)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not invertible"):
        specop.eigsh(objective.hessian(), k=1)
