"""What only TensorFlow has in curvature matrices: losses of Keras, variables of models, and traces."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import specop
from specop.errors import InvalidInputError, ParametersChangedError
from specop.objectives.likelihoods import Likelihood
from tensorflow_cases import (
    CROSS_ENTROPY,
    close,
    cross_entropy,
    labels,
    mlp,
    normal,
    problem,
)

# --- Right answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "wide and deep"])
def test_matrices_of_keras_models(name):
    model, criterion, batch = problem(name)
    z, J = reference(model, batch[0])
    H = criterion_hessian(criterion, z, batch[1])
    objective = specop.objective(model, criterion, batch)
    close(objective.jacobian().to_dense(), J)
    close(objective.jacobian().T.to_dense(), J.T)
    close(objective.ggn().to_dense(), J.T @ H @ J)
    close(objective.fisher().to_dense(), J.T @ H @ J)
    rows = np.concatenate([block.numpy() for block in objective.per_sample_gradients()])
    close(rows.mean(0), objective.gradient())
    close(objective.fisher(kind="empirical", of="samples").to_dense(), rows.T @ rows / 11)


def test_loops_of_the_graph():
    model, criterion, batch = problem("recurrent")
    z, J = reference(model, batch[0])
    H = criterion_hessian(criterion, z, batch[1])
    close(specop.objective(model, criterion, batch).ggn().to_dense(), J.T @ H @ J)


def reference(model, x):
    """Outputs and their Jacobian by TensorFlow itself."""
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        z = model(x, training=False)
    blocks = tape.jacobian(z, variables, experimental_use_pfor=False)
    return z, np.concatenate([np.reshape(tf.convert_to_tensor(block), [tf.size(z), -1]) for block in blocks], 1)


def criterion_hessian(criterion, z, y):
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(z)
        with tf.GradientTape() as inner:
            inner.watch(z)
            loss = criterion(y, z)
        gradient = inner.gradient(loss, z)
    return np.reshape(outer.jacobian(gradient, z, experimental_use_pfor=False), [tf.size(z), tf.size(z)])


# --- Likelihoods ------------------------------------------------------------------------------------------------------

LOSSES = keras.losses
RECOGNISED = {
    "sparse": (LOSSES.SparseCategoricalCrossentropy(from_logits=True), "categorical"),
    "one-hot": (LOSSES.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), "categorical"),
    "binary": (LOSSES.BinaryCrossentropy(from_logits=True), "bernoulli"),
    "squared": (LOSSES.MeanSquaredError(), "gaussian"),
    "probabilities": (LOSSES.SparseCategoricalCrossentropy(), None),
    "absolute": (LOSSES.MeanAbsoluteError(), None),
    "own": (cross_entropy, None),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_losses_of_keras_are_recognised(name):
    criterion, likelihood = RECOGNISED[name]
    objective = specop.objective(mlp(), criterion, (normal(5, 3), labels(5)))
    assert objective.ggn().is_psd is (True if likelihood else None)
    if likelihood is None:
        with pytest.raises(InvalidInputError, match="needs to know the likelihood"):
            objective.fisher()
    elif likelihood != "gaussian":
        with pytest.raises(InvalidInputError, match=f"the criterion's likelihood is {likelihood}, not gaussian"):
            specop.objective(mlp(), criterion, (normal(5, 3), labels(5)), likelihood="gaussian")


def test_gauss_newton_asks_for_the_likelihood_of_an_own_loss_only(monkeypatch):
    """Over many classes the question is what takes most memory: eight arrays as large as the logits."""
    asked = []
    terms = Likelihood.terms
    monkeypatch.setattr(Likelihood, "terms", lambda *arguments: (asked.append(1), terms(*arguments))[1])
    for criterion, likelihood, count in ((CROSS_ENTROPY, None, 0), (cross_entropy, "categorical", 1)):
        objective = specop.objective(mlp(), criterion, (normal(5, 3), labels(5)), likelihood=likelihood)
        objective.ggn() @ objective.theta
        assert len(asked) == count


def test_a_loss_of_single_precision_is_recognised_on_outputs_of_double_precision():
    model, _, batch = problem("mlp")
    exact = specop.objective(model, CROSS_ENTROPY, batch).fisher().to_dense()
    single = specop.objective(model, LOSSES.SparseCategoricalCrossentropy(from_logits=True), batch)
    close(single.fisher().to_dense(), exact, 1e-6)
    function = specop.objective(
        lambda w, batch: batch[0] @ w,
        LOSSES.SparseCategoricalCrossentropy(from_logits=True),
        batch,
        params=normal(3, 3, seed=5),
    )
    assert function.fisher().precision == np.finfo(np.float32).eps


def test_ignored_classes():
    x, y, w = normal(5, 4, 3), tf.reshape(labels(20), [5, 4]), normal(3, 3, seed=1)
    ignoring = LOSSES.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1, dtype="float64")
    objective = specop.objective(lambda w, batch: tf.tanh(batch[0]) @ w, ignoring, (x, y), params=w)
    close(objective.fisher().to_dense(), objective.ggn().to_dense())


# --- Points and traces ------------------------------------------------------------------------------------------------


def test_at_another_point_and_after_a_change():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    theta = objective.theta + 0.3
    at = [matrix.to_dense() for matrix in matrices(objective, theta)]
    (rows,) = objective.per_sample_gradients(theta)
    here = matrices(objective)
    for variable, value in zip(model.trainable_variables, objective.unflatten(theta).values(), strict=True):
        variable.assign(value)
    for matrix, found, stale in zip(matrices(objective), at, here, strict=True):
        close(found, matrix.to_dense())
        with pytest.raises(ParametersChangedError):
            stale @ theta
    close(rows, next(objective.per_sample_gradients()))


def matrices(objective, theta=None):
    return [
        objective.ggn(theta),
        objective.fisher(theta, kind="exact"),
        objective.fisher(theta, kind="mc"),
        objective.fisher(theta, kind="empirical", of="samples"),
        objective.jacobian(theta),
    ]


def test_a_matrix_is_traced_once_and_cut_at_the_vector():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    v = tf.ones([31], tf.float64)
    for seed in range(3):
        objective.fisher(kind="mc", seed=seed, draws=seed + 1) @ v
    # Besides the loss, outputs, for their shape, and the Jacobian, which differences are compared with.
    kinds = {getattr(run, "kind", ""): trace for (_, run, *_), trace in objective._autodiff._traces.items()}
    trace = kinds["sampled fisher"]
    again = [node.op for node in trace.after.__wrapped__.graph.as_graph_def().node]
    assert "ReadVariableOp" not in again and "Tanh" not in again and "Softmax" not in again
    # Of two layers: J v takes three products of matrices, and J'u three.
    assert again.count("MatMul") <= 6


# --- What cannot be ---------------------------------------------------------------------------------------------------


def test_samples_that_depend_on_each_other_are_refused():
    keras.utils.set_random_seed(0)
    batch, layers = (normal(11, 3), labels(11)), keras.layers
    normalized = keras.Sequential([layers.Input((3,)), layers.BatchNormalization(dtype="float64")])
    objective = specop.objective(normalized, CROSS_ENTROPY, batch, fixed_randomness=0)
    for call in (
        lambda: next(objective.per_sample_gradients()),
        objective.fisher(kind="empirical").to_dense,
    ):
        with pytest.raises(InvalidInputError, match="batch normalization in training mode"):
            call()
    assert np.isfinite(objective.ggn().to_dense()).all()
    masked = specop.objective(mlp(dropout=0.5), CROSS_ENTROPY, batch, fixed_randomness=0)
    with pytest.raises(InvalidInputError, match="under one fixed mask for the whole batch"):
        next(masked.per_sample_gradients())


BAD = {
    "constant criterion": (
        lambda w, batch: batch[0] @ w,
        lambda z, y: tf.constant(1.0),
        "does not depend on any of the 1 selected",
    ),
    "constant outputs": (lambda w, batch: batch[0], cross_entropy, "does not depend on any of the 1 selected"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_say_what_to_do(name):
    function, criterion, message = BAD[name]
    objective = specop.objective(function, criterion, (normal(11, 3), labels(11)), params=normal(3, 3))
    with pytest.raises(InvalidInputError, match=message):
        objective.ggn().to_dense()


def test_exhausted_memory_is_recognised():
    model, criterion, batch = problem("mlp")
    autodiff = specop.objective(model, criterion, batch)._autodiff
    # Provoked for real it takes ten seconds, which TensorFlow's allocator waits for memory.
    assert autodiff.is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"))
    assert not autodiff.is_out_of_memory(ValueError("OOM"))
