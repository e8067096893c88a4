"""A model with a copy on each of three devices, against the same one on one device, and against NumPy."""

import functools
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import specop
from specop.errors import InvalidInputError, ParametersChangedError
from specop_tensorflow.mirrored import MirroredAutodiff

keras.config.set_floatx("float64")
DEVICES = [f"CPU:{number}" for number in range(3)]
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
MATRICES = {
    "hessian": lambda objective: objective.hessian(),
    "ggn": lambda objective: objective.ggn(),
    "mc": lambda objective: objective.fisher(kind="mc", draws=2, seed=3),
    "of samples": lambda objective: objective.fisher(kind="empirical", of="samples"),
}


@functools.cache
def strategy():
    return tf.distribute.MirroredStrategy(DEVICES)


def pair(make):
    """The same model on three devices and on one."""
    keras.utils.set_random_seed(0)
    with strategy().scope():
        mirrored = make()
    alone = make()
    alone.set_weights(mirrored.get_weights())
    return mirrored, alone


def layers():
    hidden = keras.layers.Dense(3, "tanh"), keras.layers.BatchNormalization()
    return keras.Sequential([keras.Input((3,)), *hidden, keras.layers.Dense(2)])


def dense():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def batches(*counts):
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((count, 3)), rng.integers(0, 2, count)) for count in counts]


@functools.cache
def objectives():
    """Of two batches on three devices, one of them of fewer samples than these, and of all samples on one."""
    data = batches(7, 2)
    mirrored, alone = pair(layers)
    whole = tuple(np.concatenate(parts) for parts in zip(*data, strict=True))
    return specop.objective(mirrored, CROSS_ENTROPY, data), specop.objective(alone, CROSS_ENTROPY, whole)


def parts_of(objective):
    with objective._data.reading() as found:
        return [x.device for (x, *_), _, _ in found]


def same(found, right):
    np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-13)


def check_loss_gradient_and_matrices():
    dealt, one = objectives()
    assert isinstance(dealt._autodiff, MirroredAutodiff) and not isinstance(one._autodiff, MirroredAutodiff)
    theta = one.theta + 0.1
    for at in (None, theta):
        same(dealt.loss(at), one.loss(at))
        for found, right in zip(dealt.loss_and_gradient(at), one.loss_and_gradient(at), strict=True):
            same(found, right)
    for make in MATRICES.values():
        found = make(dealt)
        same(found.to_dense(), make(one).to_dense())
        # Of 7 samples 3, 3 and 1, and of 2 one each.
        assert found.plan().batches == found.plan().linearized == 5
    same(dealt.jacobian() @ theta, one.jacobian() @ theta)
    same(*(np.concatenate(list(each.per_sample_gradients())) for each in (dealt, one)))
    same(dealt.importance(), one.importance())
    same(dealt.subset([1, 6, 8]).gradient(), one.subset([1, 6, 8]).gradient())
    assert [part.samples for part in dealt.batches()] == [7, 2]


def check_the_algorithms():
    dealt, one = objectives()
    right = np.array(one.hessian().to_dense())
    values, H = np.linalg.eigvalsh(right), dealt.hessian()
    same(specop.eigsh(H, k=2, which="LA", tol=1e-10).eigenvalues, values[-2:])
    exact = specop.trace(H, method="exact")
    same(exact.estimate, np.trace(right))
    estimates = [specop.trace(A.hessian(), seed=2, rtol=0.05) for A in (dealt, one)]
    same(estimates[0].estimate, estimates[1].estimate)
    # Where a space of few dimensions ends, and with it the steps, is a matter of rounding: the Hessian has all.
    densities = [specop.spectral_density(A.hessian(), probes=2, steps=8, seed=1) for A in (dealt, one)]
    same(*(density.integrate(np.square).estimate for density in densities))
    ranks = [specop.rank(A.ggn(), threshold=1e-6) for A in (dealt, one)]
    same(ranks[0].estimate, ranks[1].estimate)
    x = dealt.solve(dealt.gradient(), matrix="ggn", damping=0.1, rtol=1e-12).x
    shifted = np.array(one.ggn().to_dense()) + 0.1 * np.eye(one.n)
    same(x, np.linalg.solve(shifted, np.array(one.gradient())))


def check_a_function_against_numpy():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((10, 4)), rng.standard_normal(10)
    with strategy().scope():
        params = {"w": tf.Variable(rng.standard_normal(4))}

    def loss(params, batch):
        x, y = batch
        return tf.reduce_mean((tf.linalg.matvec(x, params["w"]) - y) ** 2)

    objective = specop.objective(loss, params=params, data=(x, y))
    same(objective.gradient(), 2 * x.T @ (x @ params["w"].numpy() - y) / 10)
    H = objective.hessian()
    same(H.to_dense(), 2 * x.T @ x / 10)
    assert H.plan().batches == 3
    params["w"].assign_add(np.ones(4))
    same(objective.gradient(), 2 * x.T @ (x @ params["w"].numpy() - y) / 10)


def check_where_a_vector_goes():
    """A product takes the vector to each device but the first, and a product back from it; data stay where they are."""
    dealt, _ = objectives()
    H, vector = dealt.hessian(), dealt.gradient()
    H @ vector, H @ vector
    computed = []
    autodiff = dealt._autodiff
    home = autodiff._moved

    def counted(tensor):
        computed.append(tensor.device)
        return home(tensor)

    autodiff._moved = counted
    try:
        product = H @ vector
    finally:
        del autodiff._moved
    assert product.device == vector.device == autodiff.device
    # Five parts go from device to device; what two of them compute is there already.
    assert sorted(computed) == sorted(autodiff.devices[number % 3] for number in range(5))
    # What is kept for products lies where they are computed.
    held = [cell.cell_contents for apply in H.products[0]._linear for cell in apply.__closure__]
    assert {place for place in held if isinstance(place, str)} == set(autodiff.devices)


def check_devices_compute_at_the_same_time():
    barrier = threading.Barrier(3)
    autodiff = objectives()[0]._autodiff
    assert autodiff.at_once([lambda: barrier.wait(20) >= 0] * 3) == [True] * 3
    with pytest.raises(ZeroDivisionError):
        autodiff.at_once([lambda: 1, lambda: 1 / 0])


def check_weights_of_samples():
    rng = np.random.default_rng(2)
    data = [(x, y, rng.uniform(0.5, 2.0, len(y))) for x, y in batches(5, 2)]
    # Samples of weight zero alone on a device.
    data[0][2][:2] = 0.0
    whole = tuple(np.concatenate(parts) for parts in zip(*data, strict=True))
    models = pair(dense)
    for reduction in ("sum_over_batch_size", "mean_with_sample_weight"):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction, dtype="float64")
        dealt, one = (specop.objective(*each) for each in zip(models, [loss] * 2, (data, whole), strict=True))
        for found, right in zip(dealt.loss_and_gradient(), one.loss_and_gradient(), strict=True):
            same(found, right)
        assert len(parts_of(dealt)) == (5 if reduction == "sum_over_batch_size" else 4)


def check_masks_and_coupled_samples_stay_whole():
    """What is not the mean over parts of a batch is computed of whole batches, also where all terms are equal here."""
    tokens = np.array([[1, 2, 3], [2, 0, 0], [3, 1, 0], [1, 1, 1]])
    labels = np.array([[0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]])

    def masking():
        inner = keras.layers.Embedding(4, 2, mask_zero=True), keras.layers.Dense(2, kernel_initializer="zeros")
        return keras.Sequential([keras.Input((3,), dtype="int64"), *inner])

    def contrastive(outputs, y):
        return tf.reduce_mean(tf.math.reduce_logsumexp(outputs @ tf.transpose(outputs), axis=1))

    def terms(batch):
        return np.count_nonzero(batch[0])

    for make, criterion, data, options, parts in (
        (masking, CROSS_ENTROPY, (tokens, labels), {}, 1),
        # Where terms are counted, masks are as good as any mean.
        (masking, CROSS_ENTROPY, (tokens, labels), {"weight": terms}, 2),
        (dense, contrastive, batches(6)[0], {}, 1),
        # Whole batches go from device to device.
        (dense, contrastive, batches(3, 4), {"batches": "as given"}, 2),
    ):
        dealt, one = (specop.objective(model, criterion, data, **options) for model in pair(make))
        same(dealt.gradient(), one.gradient())
        assert parts_of(dealt) == list(dealt._autodiff.devices[:parts])


def check_single_precision_and_a_budget():
    def single():
        return keras.Sequential(
            [
                keras.Input((6, 6, 1), dtype="float32"),
                keras.layers.Conv2D(2, 3, activation="gelu", dtype="float32"),
                keras.layers.Flatten(dtype="float32"),
                keras.layers.Dense(2, dtype="float32"),
            ]
        )

    rng = np.random.default_rng(4)
    data = [(rng.standard_normal((count, 6, 6, 1)).astype("float32"), rng.integers(0, 2, count)) for count in (6, 6)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float32")
    models = pair(single)
    dealt, one = (specop.objective(model, loss, data) for model in models)
    recomputed = specop.objective(models[0], loss, data, memory_budget=0)
    vector = one.gradient()
    right = one.hessian() @ vector
    for objective in (dealt, recomputed):
        H = objective.hessian()
        for _ in range(2):
            np.testing.assert_allclose(H @ vector, right, rtol=1e-4, atol=1e-6 * float(tf.norm(right)))
        assert H.plan().batches == 6
    assert recomputed.hessian().plan().linearized == 0


def check_what_is_refused():
    mirrored, _ = pair(dense)
    x, y = batches(6)[0]
    parts = strategy().experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((x, y)).batch(6))
    with pytest.raises(InvalidInputError, match=r"a part for each replica.*Pass the data set that it was made of"):
        specop.objective(mirrored, CROSS_ENTROPY, parts).loss()
    objective = specop.objective(mirrored, CROSS_ENTROPY, (x, y))
    hessian, vector = objective.hessian(), objective.gradient()
    weights = mirrored.get_weights()
    variable = mirrored.trainable_variables[0].value
    variable.values[2].assign(variable.values[2] + 1.0)
    with pytest.raises(InvalidInputError, match=r"copies of the variable .*kernel.* differ"):
        hessian @ vector
    mirrored.set_weights(weights)
    hessian @ vector
    with strategy().scope():
        variable.assign_add(tf.ones_like(variable))
    with pytest.raises(ParametersChangedError):
        hessian @ vector


def check_variables_that_differ_are_read_as_their_mean():
    """As TensorFlow reads them outside of a replica."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal(6)

    class Model(tf.Module):
        def __init__(self):
            self.w = tf.Variable(rng.standard_normal(3))
            self.scale = tf.Variable(
                1.0,
                dtype=tf.float64,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
            )

        def __call__(self, x):
            return tf.linalg.matvec(x, self.w) * self.scale

    with strategy().scope():
        model = Model()
    for number, one in enumerate(model.scale.values):
        one.assign(1.0 + number)
    objective = specop.objective(model, lambda outputs, y: tf.reduce_mean((outputs - y) ** 2), (x, y))
    H = objective.hessian()
    same(H.to_dense(), 2 * 4.0 * x.T @ x / 6)
    model.scale.values[2].assign(9.0)
    with pytest.raises(ParametersChangedError):
        H @ objective.gradient()


def check_fixed_randomness_stays_on_one_device():
    def dropping():
        inner = keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(2)
        return keras.Sequential([keras.Input((3,)), *inner])

    models = pair(dropping)
    dealt, one = (specop.objective(model, CROSS_ENTROPY, batches(6)[0], fixed_randomness=3) for model in models)
    same(dealt.gradient(), one.gradient())
    assert len(parts_of(dealt)) == 1
