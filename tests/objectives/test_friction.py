"""What newcomers type first, in every framework in which it can occur: it works, or the text says what to type."""

import importlib

import numpy as np
import pytest

import specop
from linear_cases import HESSIAN, X, Y, batch, case, dense, each_framework, given, squares
from parity.cases import FRAMEWORKS
from specop.errors import InvalidInputError


# Functions and their parameters
def with_aux(framework):
    loss = squares(framework)
    return specop.objective(lambda p, b: (loss(p, b), {"n": 8}), params=given(framework), data=batch(framework)).loss()


def with_named_loss(framework):
    loss = squares(framework)
    return specop.objective(lambda p, b: {"loss": loss(p, b)}, params=given(framework), data=batch(framework)).loss()


def criterion_with_aux(framework):
    mean = case(framework).mean
    return specop.objective(
        lambda p, b: b[0] @ p["w"],
        lambda z, y: (mean((z - y) ** 2), mean(z)),
        batch(framework),
        params=given(framework),
    ).loss()


def of_parameter(value):
    return lambda framework: specop.objective(
        squares(framework), params=given(framework, c=value), data=batch(framework)
    )


def of_numpy_alone(framework):
    return specop.objective(squares(framework), params={"w": np.zeros((3, 1))}, data=(X, Y))


def three_parts(framework):
    mean = case(framework).mean
    return specop.objective(
        lambda p, b: b[0] @ p["w"],
        lambda z, y: mean((z - y) ** 2),
        (*batch(framework), case(framework).array(np.ones(8))),
        params=given(framework),
    ).loss()


def tuple_of_batches(framework):
    x, y = batch(framework)
    return specop.objective(squares(framework), params=given(framework), data=((x[:4], y[:4]), (x[4:], y[4:]))).loss()


def one_that_takes_a_name(framework):
    return specop.objective(squares(framework), params=given(framework), data=batch(framework), select=lambda name: 1)


def a_number(framework):
    return specop.objective(squares(framework), params=given(framework), data=batch(framework), select=0)


def a_misspelled_name(framework):
    params = given(framework, c=case(framework).array(np.zeros(2)))
    return specop.objective(squares(framework), params=params, data=batch(framework), select=["w", "d"])


def a_parameter_of_another_model(framework):
    params = given(framework)
    return specop.objective(
        squares(framework), params=params, data=batch(framework), select=[params["w"], given(framework)["w"]]
    )


def a_masked_batch(framework):
    x = np.ma.masked_array(X, mask=X > 1.0)
    return specop.objective(squares(framework), params=given(framework), data=(x, Y)).loss()


REFUSED = {
    "a tuple of batches": (tuple_of_batches, r"A tuple is one batch, here of 2 parts .* pass a list of them"),
    "a predicate of the name": (one_that_takes_a_name, r"select is called with two arguments, \(name, array\)"),
    "a number of a parameter": (a_number, "select takes a pattern, .* got an item of type int"),
    "a misspelled name": (a_misspelled_name, r"select='d' matches no parameter. There are: "),
    "a parameter of another model": (
        a_parameter_of_another_model,
        r"select=an array of shape \(3, 1\) matches no param",
    ),
    "a masked array": (a_masked_batch, r"of the batch .* masked array of NumPy, .* an array of weights beside it"),
    "has_aux": (with_aux, r"got a tuple of 2.*has_aux.*lambda params, batch: fun\(params, batch\)\[0\]"),
    "a loss in a dict": (with_named_loss, r"got dict.*return that alone: lambda params, batch: .*\['loss'\]"),
    "a criterion with aux": (criterion_with_aux, r"got a tuple of 2.*lambda outputs, y: criterion\(outputs, y\)\[0\]"),
    "a Python float": (
        of_parameter(0.5),
        r"the parameter 'c' is the Python number 0.5.*(as_?tensor|asarray|Variable)\(0.5",
    ),
    "NumPy alone": (of_numpy_alone, "parameters are NumPy arrays, .*nothing shows the framework"),
    "a batch of three": (
        three_parts,
        r"fails on the batch.*called with \(outputs, batch\) where .* no pair \(x, y\), here a tuple of 3",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@each_framework
def test_what_is_refused_says_what_to_type(framework, name):
    make, text = REFUSED[name]
    with pytest.raises(InvalidInputError, match=f"(?s){text}"):
        make(framework)


@pytest.mark.parametrize("value", [np.zeros(()), 1, "relu"], ids=["NumPy", "int", "str"])
@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name != "jax"])
def test_what_is_no_tensor_is_refused_by_name_and_kind(framework, value):
    # JAX differentiates NumPy arrays, and takes what is no array for a part of the structure.
    with pytest.raises(InvalidInputError, match=r"the parameter 'c' is (a|the) .*, in which nothing can be diff"):
        of_parameter(value)(framework)


def test_jax_takes_numpy_parameters_of_a_restored_checkpoint():
    jax = pytest.importorskip("jax")
    restored = {"w": np.zeros((3, 1))}
    for fun, data in ((squares("jax"), batch("jax")), (jax.jit(squares("jax")), (X, Y))):
        np.testing.assert_allclose(dense(specop.objective(fun, params=restored, data=data)), HESSIAN, atol=1e-12)


@each_framework
def test_small_models_have_all_of_their_eigenvalues_by_default(framework):
    hessian = specop.objective(squares(framework), params=given(framework), data=batch(framework)).hessian()
    found = specop.eigsh(hessian)
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(HESSIAN), rtol=1e-10)
    with pytest.raises(InvalidInputError, match="k must be an integer from 1 to n=3, got 6"):
        specop.eigsh(hessian, k=6)
    assert len(specop.eigsh(np.eye(7)).eigenvalues) == 6
    # Exact where the sketch is of all of the matrix, and one on what it leaves out: d (H + d I)^-1.
    M = specop.nystrom_preconditioner(hessian, damping=0.1)
    np.testing.assert_allclose(
        M.backend.to_numpy(M.to_dense()) @ (HESSIAN + 0.1 * np.eye(3)), 0.1 * np.eye(3), atol=1e-6
    )


def test_ranks_are_whole_numbers():
    for found in (specop.rank(np.diag([1.0, 2.0, 0.0, 0.0])), specop.rank(np.diag(np.linspace(-1, 1, 300)), 0.5)):
        assert type(found.rank) is int and type(found.nullity) is int
        assert found.rank + found.nullity == found.n and abs(found.rank - found.estimate) <= 0.5


ONE = np.diag([1.0, 2.0, 3.0])
WORDS = {
    "rtol": lambda: specop.trace(ONE, rtol="small"),
    "rtol of a density": lambda: specop.spectral_density(ONE, rtol="small"),
    "confidence": lambda: specop.trace(ONE, confidence="high"),
    "damping": lambda: specop.effective_dimension(ONE, damping="auto"),
    "tol": lambda: specop.eigsh(ONE, 1, tol="tight"),
    "memory_budget": lambda: specop.objective(squares("torch"), params=given("torch"), data=(), memory_budget="small"),
}


@pytest.mark.parametrize("name", WORDS)
def test_text_where_a_number_belongs_is_refused_by_the_name(name):
    with pytest.raises(InvalidInputError, match=f"^{name.partition(' ')[0]} must .*(small|high|auto|tight)"):
        WORDS[name]()


# Transformations
TRANSFORMED = {
    "jax": (["jit", "vmap", "grad"], "inside jax.jit no number can be looked at"),
    "torch": (["func.vmap", "func.grad"], r"is being traced by torch.func"),
    "tensorflow": (["function"], "inside tf.function no number can be looked at"),
}


def transform(framework, name):
    found = importlib.import_module(framework)
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("framework", "name"),
    [(framework, name) for framework in FRAMEWORKS for name in TRANSFORMED[framework][0]],
)
def test_first_products_inside_transformations_are_refused_and_leave_nothing(framework, name):
    hessian = specop.objective(squares(framework), params=given(framework), data=batch(framework)).hessian()
    vector = case(framework).array(np.ones(3))
    mean = case(framework).mean
    operand = case(framework).array(np.eye(3)) if name.endswith("vmap") else vector
    # TensorFlow's own wrapper of an error in traced code keeps its text.
    with pytest.raises(Exception, match=TRANSFORMED[framework][1]):
        transform(framework, name)(lambda v: mean((hessian @ v) * v))(operand)
    for _ in range(3):
        np.testing.assert_allclose(case(framework).numpy(hessian @ vector), HESSIAN.sum(1), atol=1e-12)
