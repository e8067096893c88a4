"""Objectives on small Keras models and functions of variables: right answers, the model unharmed, traced once."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import specop
from specop.errors import InvalidInputError, NondeterministicError, NonFiniteError, ParametersChangedError
from specop.objectives.autodiff import HESSIAN
from specop_tensorflow.autodiff import make_autodiff
from tensorflow_cases import (
    CROSS_ENTROPY,
    close,
    cross_entropy,
    exact,
    integers,
    jacobian,
    labels,
    layers,
    mlp,
    normal,
    numbers,
    problem,
    split,
)

# --- Right answers ----------------------------------------------------------------------------------------------------


# The others are held against NumPy (test_parity.py).
@pytest.mark.parametrize("name", ["mlp", "recurrent", "module"])
def test_derivatives_are_those_of_tensorflow(name):
    model, criterion, batch = problem(name)
    loss, gradient, hessian = exact(model, criterion, batch)
    objective = specop.objective(model, criterion, batch)
    close(objective.loss(), loss)
    close(objective.gradient(), gradient)
    H = objective.hessian()
    close(H.to_dense(), hessian)
    close(H.to_dense(), hessian)
    assert objective.samples == 11 and H.is_symmetric
    # A kept linearization multiplies by what was kept; nothing but variables and data is read before.
    assert H.plan().recomputed == 0


@pytest.mark.parametrize("name", ["mlp", "wide and deep", "module"])
def test_hessian_at_another_point(name):
    model, criterion, batch = problem(name)
    objective = specop.objective(model, criterion, batch)
    theta = objective.gradient() + 0.3
    before = [numbers(v) for v in model.variables]
    found = objective.loss(theta), objective.gradient(theta), objective.hessian(theta).to_dense()
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(numbers(variable), value)
    for variable, value in zip(model.trainable_variables, objective.unflatten(theta).values(), strict=True):
        variable.assign(value)
    for one, expected in zip(found, exact(model, criterion, batch), strict=True):
        close(one, expected)


@pytest.mark.parametrize("budget", [0, None, "some"])
def test_unequal_batches_within_and_beyond_the_memory_budget(budget):
    model, criterion, batch = problem("mlp")
    loss, gradient, hessian = exact(model, criterion, batch)
    batches = split(batch, 5, 5, 1)
    if budget == "some":
        autodiff = make_autodiff(model, criterion)
        budget = autodiff.linearize(None, batches[0], tf.ones([31], tf.float64), HESSIAN).bytes
        assert budget > 5 * 4 * 8
    objective = specop.objective(model, criterion, batches, memory_budget=budget)
    close(objective.loss(), loss)
    close(objective.gradient(), gradient)
    H = objective.hessian()
    for _ in range(2):
        close(H.to_dense(), hessian)
    assert H.plan().recomputed == {None: 0, 0: 3}.get(budget, 2)


def test_a_batch_of_any_structure_with_a_model():
    model, _, (x, y) = problem("mlp")
    objective = specop.objective(
        model,
        lambda outputs, batch: cross_entropy(outputs, batch["target"]),
        {"inputs": x, "target": y},
        forward=lambda model, batch: model(batch["inputs"]),
    )
    close(objective.hessian().to_dense(), exact(model, cross_entropy, (x, y))[2])


def test_a_dataset():
    model, criterion, batch = problem("mlp")
    data = tf.data.Dataset.from_tensor_slices(batch).shuffle(11).batch(6)
    close(specop.objective(model, criterion, data).hessian().to_dense(), exact(model, criterion, batch)[2])


def test_a_shuffling_dataset_beyond_the_budget_is_noticed():
    model, criterion, batch = problem("mlp", 40)
    data = tf.data.Dataset.from_tensor_slices(batch).shuffle(40, reshuffle_each_iteration=True).batch(20)
    with pytest.raises(NondeterministicError, match="the loader shuffles"):
        specop.objective(model, criterion, data, memory_budget=0).gradient()


def params():
    return {
        "layers": [{"w": tf.Variable(normal(4, 3, seed=1))}, {"w": normal(3, 4, seed=2)}],
        "b": tf.zeros([3], tf.float64),
    }


def outputs(p, batch):
    return tf.tanh(batch[0] @ tf.transpose(p["layers"][0]["w"])) @ tf.transpose(p["layers"][1]["w"]) + p["b"]


def test_a_variable_among_the_parameters_is_read_again_for_each_operator():
    batch, tree = (normal(11, 3), labels(11)), params()
    objective = specop.objective(outputs, CROSS_ENTROPY, batch, params=tree)
    before = objective.restrict("layers.0.w").hessian().to_dense()
    tree["layers"][0]["w"].assign_add(tf.ones([4, 3], tf.float64))
    assert np.abs(objective.restrict("layers.0.w").hessian().to_dense() - before).max() > 1e-3


class Tokens(keras.Model):
    """A small language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.embedding = layers.Embedding(6, 3, dtype="float64")
        self.mix = layers.Dense(3, "tanh", dtype="float64")

    def call(self, x):
        return self.mix(self.embedding(x)) @ tf.transpose(self.embedding.embeddings.value)


def masked_cross_entropy(outputs, y):
    """Mean over the tokens that have a label."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(y, 0), outputs)
    counts = tf.cast(y >= 0, outputs.dtype)
    return tf.reduce_sum(losses * counts) / tf.reduce_sum(counts)


def test_masked_tokens_and_tied_weights():
    """Batches count by their labels; an embedding that is also the output layer counts once."""
    keras.utils.set_random_seed(0)
    model, x = Tokens(), integers(6, 11, 3)
    model(x)
    y = np.array(tf.reverse(x, [1]))
    y[np.arange(33).reshape(11, 3) % 4 == 1] = -100
    y[7:, 1:] = -100
    batch = (x, tf.constant(y))
    loss, gradient, hessian = exact(model, masked_cross_entropy, batch)
    objective = specop.objective(
        model,
        masked_cross_entropy,
        split(batch, 6, 5),
        weight=lambda batch: tf.reduce_sum(tf.cast(batch[1] >= 0, tf.int32)),
        likelihood="categorical",
    )
    assert objective.n == 30 and objective.terms == (y >= 0).sum()
    close(objective.loss(), loss)
    close(objective.gradient(), gradient)
    close(objective.hessian().to_dense(), hessian)
    close(objective.fisher().to_dense(), objective.ggn().to_dense())


def test_batch_normalization_in_training_mode():
    """With fixed randomness it is the loss of training, of one batch; the statistics stay."""
    keras.utils.set_random_seed(0)
    model, criterion, batch = problem("cnn")
    before = [numbers(v) for v in model.variables]
    objective = specop.objective(model, criterion, batch, fixed_randomness=0)
    points = [v.value for v in model.trainable_variables]
    found = tf.function(lambda: jacobian(lambda: criterion(batch[1], model(batch[0], training=True)), points))
    close(objective.hessian().to_dense(), tf.function(found)()[2])
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
def test_bfloat16_layers(policy):
    """Vectors are in single precision, and the operator says how exact its products are."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [layers.Input((3,), dtype="float64"), layers.Dense(4, "tanh", dtype=policy), layers.Dense(3, dtype=policy)]
    )
    batch = (normal(11, 3), labels(11))

    def criterion(outputs, y):
        return cross_entropy(tf.cast(outputs, tf.float32), y)

    exactly = mlp()
    exactly.set_weights([np.array(weight, dtype=np.float64) for weight in model.get_weights()])
    H = specop.objective(model, criterion, batch).hessian()
    assert H.dtype == np.float32 and H.precision == 2.0**-7
    expected = exact(exactly, cross_entropy, batch)[2]
    assert tf.norm(tf.cast(H.to_dense(), tf.float64) - expected) < 4 * H.precision * tf.norm(expected)


# --- Selection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pattern", "layer name", "layer", "variable", "predicate"])
def test_selection(kind):
    model, criterion, batch = problem("mlp")
    head = model.get_layer("head")
    select = {
        "pattern": "head/*",
        "layer name": "head",
        "layer": head,
        "variable": list(head.weights),
        "predicate": lambda name, variable: name.startswith("head"),
    }[kind]
    objective = specop.objective(model, criterion, batch, select=select)
    assert objective.names == ("head/kernel", "head/bias")
    if kind == "pattern":
        close(objective.hessian().to_dense(), exact(model, criterion, batch)[2][16:, 16:])


def test_an_empty_selection_names_what_there_is():
    model, criterion, batch = problem("mlp")
    with pytest.raises(InvalidInputError, match=r"'decoder' matches no parameter\. There are: .*head/kernel"):
        specop.objective(model, criterion, batch, select="decoder")


def test_frozen_weights_are_left_out_or_count_as_constants():
    model, criterion, batch = problem("mlp")
    hessian = exact(model, criterion, batch)[2]
    model.get_layer("head").trainable = False
    close(specop.objective(model, criterion, batch).hessian().to_dense(), hessian[:16, :16])
    with pytest.warns(UserWarning, match="2 selected parameters are frozen, such as 'head/kernel'.*trainable = True"):
        objective = specop.objective(model, criterion, batch, select="*")
    found = objective.hessian().to_dense()
    close(found[:16, :16], hessian[:16, :16])
    assert not found[16:].numpy().any() and not found[:, 16:].numpy().any()


# --- The model stays as it was ----------------------------------------------------------------------------------------


def test_everything_is_left_as_found():
    keras.utils.set_random_seed(0)
    model = mlp(dropout=0.5)
    batch = (normal(11, 3), labels(11))
    tf.random.set_seed(1)
    tf.random.get_global_generator().reset_from_seed(2)
    expected = tf.random.normal([3]).numpy()
    tf.random.set_seed(1)
    variables = [(v.path, numbers(v), v.trainable) for v in model.variables]
    generator = tf.random.get_global_generator().state.numpy()
    for seed in (None, 3):
        objective = specop.objective(model, CROSS_ENTROPY, batch, fixed_randomness=seed)
        objective.loss(), objective.gradient(), specop.eigsh(objective.hessian(), k=1)
    with pytest.raises(NonFiniteError):
        specop.objective(model, CROSS_ENTROPY, (batch[0] * np.inf, batch[1])).gradient()
    for (path, value, trainable), variable in zip(variables, model.variables, strict=True):
        np.testing.assert_array_equal(numbers(variable), value, err_msg=path)
        assert variable.trainable == trainable
    np.testing.assert_array_equal(tf.random.get_global_generator().state, generator)
    np.testing.assert_array_equal(tf.random.normal([3]), expected)


def test_fixed_randomness_is_one_mask():
    keras.utils.set_random_seed(0)
    model, batch = mlp(dropout=0.5), (normal(11, 3), labels(11))

    def loss(seed):
        return float(specop.objective(model, CROSS_ENTROPY, batch, fixed_randomness=seed).loss())

    assert loss(1) == loss(1) != loss(2) != loss(None)
    H = specop.objective(model, CROSS_ENTROPY, batch, fixed_randomness=1).hessian().to_dense()
    close(H, tf.transpose(H))


def test_changed_variables_are_noticed():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    H = objective.hessian()
    before = H.to_dense()
    model.get_layer("head").kernel.assign_add(normal(4, 3))
    with pytest.raises(ParametersChangedError, match="changed since this operator was made"):
        H @ tf.ones([31], tf.float64)
    close(objective.hessian().to_dense(), exact(model, criterion, batch)[2])
    assert np.abs(objective.hessian().to_dense() - before).max() > 1e-3


# --- Tracing ----------------------------------------------------------------------------------------------------------


def test_a_shape_is_traced_once():
    traced = []

    def loss(p, batch):
        traced.append(tuple(batch[0].shape))
        return cross_entropy(outputs(p, batch), batch[1])

    batch = (normal(11, 3), labels(11))
    tree = params()
    objective = specop.objective(loss, None, split(batch, 4, 4, 3), params=tree)
    for seed in range(2):
        H = objective.hessian()
        specop.eigsh(H, k=2, seed=seed)
        specop.trace(H, max_matvecs=3, seed=seed)
        tree["layers"][0]["w"].assign_add(tf.ones([4, 3], tf.float64))
    objective.hessian(objective.gradient()).to_dense()
    # One trace for first and one for second derivatives of each shape; a half of the first batch, and that batch again.
    assert sorted(traced) == [(2, 3), (3, 3), (3, 3), (4, 3), (4, 3), (4, 3)]


def branching(w, x):
    return tf.reduce_sum(w**3) if tf.reduce_mean(x) > 0 else tf.reduce_sum(w**2)


def repeating(w, x):
    total = tf.zeros((), w.dtype)
    for power in range(tf.shape(x)[0]):
        total += tf.reduce_sum(w ** tf.cast(power, w.dtype))
    return total


def waiting(w, x):
    power = tf.ones((), w.dtype)
    while power < tf.reduce_max(x):
        power += 1.0
    return tf.reduce_sum(w**power)


@pytest.mark.parametrize(
    ("function", "x", "second"),
    [
        (branching, [1.0, 2.0], lambda w: 6 * w),
        (branching, [-1.0, -2.0], lambda w: 2 + 0 * w),
        (repeating, [0.0, 0.0, 0.0, 0.0], lambda w: 2 + 6 * w),
        (waiting, [3.5, 1.0], lambda w: 12 * w**2),
    ],
)
def test_python_decides_on_tensors(function, x, second):
    # AutoGraph makes operations of it, which is tried where Python alone cannot.
    w = np.array([0.5, 1.5, 2.5])
    objective = specop.objective(
        lambda params, x: function(params["w"], x), params={"w": tf.constant(w)}, data=tf.constant(x, tf.float64)
    )
    close(objective.hessian().to_dense(), np.diag(second(w)))


class Branching(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x) if tf.reduce_mean(x) > 0 else -self.dense(x)


def test_a_layer_that_decides_on_tensors_is_told_so():
    # Keras lets AutoGraph into no layer, and tells the inputs with their dtypes, which are not the reason.
    model, x = Branching(), tf.ones((2, 3))
    model(x)
    objective = specop.objective(model, lambda y, z: tf.reduce_mean(z), [(x, tf.zeros(2))])
    with pytest.raises(TypeError, match="as a Python `bool` is not allowed"):
        objective.loss()


def test_python_that_decides_nothing_is_traced_as_it_is():
    seen = []

    def loss(params, x):
        seen.append(tf.__internal__.autograph.control_status_ctx().status.name)
        return tf.reduce_sum(params["w"] ** 2 * x)

    objective = specop.objective(loss, params={"w": tf.ones(3)}, data=tf.ones(3))
    objective.hessian() @ objective.theta
    assert seen and "ENABLED" not in seen


def test_an_error_of_the_function_is_raised_as_it_is():
    objective = specop.objective(lambda params, x: params["w"] + None, params={"w": tf.ones(3)}, data=tf.ones(3))
    with pytest.raises((TypeError, ValueError), match="None"):
        objective.loss()


def test_only_what_the_vector_reaches_runs_again():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    H = objective.hessian()
    H @ tf.ones([31], tf.float64)
    (trace,) = (trace for trace in objective._autodiff._traces.values() if hasattr(trace, "after"))
    again = [node.op for node in trace.after.__wrapped__.graph.as_graph_def().node]
    assert "ReadVariableOp" not in again and "Tanh" not in again and "Softmax" not in again
    # One of six matrix products of a layer, x dW, is all that a first layer needs forward.
    assert again.count("MatMul") < [node.op for node in trace.graph.definition.node].count("MatMul")
