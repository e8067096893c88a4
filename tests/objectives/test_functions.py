"""Functions of a structure of parameters, and batches of any structure, in every framework."""

import dataclasses
import functools

import numpy as np
import pytest

import specop
from parity.cases import FRAMEWORKS, models, numpy
from specop.errors import InvalidInputError

torch = pytest.importorskip("torch")

from parity import torch_models

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)
_rng = np.random.default_rng(7)
WEIGHTS = {"b": np.zeros(3), "layers.0.w": _rng.standard_normal((3, 4)), "layers.1.w": _rng.standard_normal((4, 3))}
INPUTS, LABELS = _rng.standard_normal((11, 3)), (np.arange(11) % 3).astype(np.int32)
VECTOR = np.concatenate([weight.reshape(-1) for weight in WEIGHTS.values()])


def structure(array):
    """The parameters, by any kind of array."""
    b, first, second = map(array, WEIGHTS.values())
    # In the alphabet's order, which JAX gives every dict.
    return {"b": b, "layers": [{"w": first}, {"w": second}]}


def params(framework, dtype="float64"):
    return structure(lambda weight: models(framework).array(weight, dtype))


def outputs(framework):
    return lambda p, batch: models(framework).tanh(batch[0] @ p["layers"][0]["w"]) @ p["layers"][1]["w"] + p["b"]


def loss(framework):
    return lambda p, batch: models(framework).cross_entropy(outputs(framework)(p, batch), batch[1])


def batches(framework, *ends, dtype="float64"):
    """The samples, cut at these places."""
    parts = zip(np.split(INPUTS, ends), np.split(LABELS, ends), strict=True)
    return [tuple(models(framework).array(part, dtype) for part in batch) for batch in parts]


@functools.cache
def hessian():
    """Of the mean loss, by torch alone."""
    ((x, y),) = batches("torch")

    def at(theta):
        b, first, second = theta.split([3, 12, 12])
        return torch_models.cross_entropy(torch.tanh(x @ first.view(3, 4)) @ second.view(4, 3) + b, y)

    return torch.autograd.functional.hessian(at, torch.from_numpy(VECTOR)).numpy()


def close(found, expected, tol=1e-10):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("with_criterion", [True, False])
@each_framework
def test_a_function_of_a_structure(framework, with_criterion):
    arguments = (outputs(framework), models(framework).cross_entropy) if with_criterion else (loss(framework), None)
    found, tree = specop.objective(*arguments, batches(framework, 7), params=params(framework)), params(framework)
    assert found.names == tuple(WEIGHTS) and found.n == 27 and found.samples == 11
    theta = found.flatten(tree)
    close(numpy(theta), VECTOR)
    for H in (found.hessian(), found.hessian(theta)):
        close(numpy(H.to_dense()), hessian())
    # A structure times the operator is a structure.
    product = found.hessian() @ tree
    close(numpy(found.flatten(product)), hessian() @ VECTOR)
    assert tuple(product["layers"][1]["w"].shape) == (4, 3)
    with pytest.raises(InvalidInputError, match="a structure like params"):
        found.flatten({"w": theta})


@each_framework
def test_a_function_without_data(framework):
    """Rosenbrock's."""
    squared_error = models(framework).squared_error

    def rosenbrock(x, _):
        a, b = x[1:], x[:-1]
        return (x.shape[0] - 1) * (100 * squared_error(a, b**2) + squared_error(b, 0 * b + 1))

    found = specop.objective(rosenbrock, params=models(framework).array(np.ones(2), "float64"))
    values = np.linalg.eigvalsh(numpy(found.hessian().to_dense()))
    np.testing.assert_allclose(values, [0.399361, 1001.60064], rtol=1e-6)
    assert (float(found.loss()), found.samples) == (0, 1)
    ten = specop.objective(rosenbrock, params=models(framework).array(np.ones(10), "float64")).hessian()
    values = specop.eigsh(ten, k=10, tol=1e-8).eigenvalues
    np.testing.assert_allclose([values.sum(), values[0], values[-1]], [9018, 0.498752, 1762.84088], rtol=1e-6)


SELECTIONS = {
    "name": (lambda tree: "layers.0.w", ["layers.0.w"]),
    "pattern": (lambda tree: "*.w", ["layers.0.w", "layers.1.w"]),
    "part of a name": (lambda tree: "layers", ["layers.0.w", "layers.1.w"]),
    "list": (lambda tree: ["b", "layers.1"], ["b", "layers.1.w"]),
    "array": (lambda tree: [tree["b"]], ["b"]),
    "predicate": (lambda tree: lambda name, array: len(array.shape) == 1, ["b"]),
}


@each_framework
def test_a_selection_is_a_principal_block(framework):
    """By one objective, as each selection would be compiled for; the matrix is that of the pattern."""
    tree = params(framework)
    whole = specop.objective(loss(framework), data=batches(framework)[0], params=tree)
    for choose, names in SELECTIONS.values():
        assert whole.restrict(choose(tree)).names == tuple(names)
    for part in (
        whole.restrict("*.w"),
        specop.objective(loss(framework), data=batches(framework)[0], params=tree, select="*.w"),
    ):
        assert part.names == ("layers.0.w", "layers.1.w")
        close(numpy(part.hessian().to_dense()), hessian()[3:, 3:])
    with pytest.raises(InvalidInputError, match=r"matches no parameter. There are: b, layers.0.w, layers.1.w"):
        whole.restrict("nothing")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@each_framework
def test_parameters_of_half_precision_have_float32_vectors(framework, dtype):
    (batch,) = batches(framework, dtype=dtype)
    found = specop.objective(loss(framework), data=batch, params=params(framework, dtype))
    H = found.hessian()
    assert H.dtype == np.float32 and H.precision == {"bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    for _ in range(2):
        product = numpy(H @ H.backend.from_host(VECTOR, H.domain))
        error = np.linalg.norm(product - hessian() @ VECTOR)
        assert error < 10 * H.precision * np.linalg.norm(hessian(), 2) * np.linalg.norm(VECTOR)


@dataclasses.dataclass
class Batch:
    inputs: object
    target: object
    note: str = "kept as it is"


# How a batch is made of inputs and labels, and read again.
STRUCTURES = {
    "dict": (lambda x, y: {"x": x, "y": y, "z": None}, lambda batch: (batch["x"], batch["y"])),
    "dataclass": (Batch, lambda batch: (batch.inputs, batch.target)),
    "nested": (
        lambda x, y: ({"inner": [Batch(x, y)]},),
        lambda batch: (batch[0]["inner"][0].inputs, batch[0]["inner"][0].target),
    ),
}


@pytest.mark.parametrize("kind", [*STRUCTURES, "numpy", "list of lists"])
@each_framework
def test_batches_of_any_structure(framework, kind):
    ((x, y),) = batches(framework)
    make, read = STRUCTURES.get(kind, (lambda x, y: (x, y), lambda batch: batch))
    data = {
        "numpy": (INPUTS, LABELS.astype(np.int64)),
        "list of lists": [list(batch) for batch in batches(framework, 4)],
    }.get(kind, make(x, y))
    found = specop.objective(lambda p, batch: loss(framework)(p, read(batch)), data=data, params=params(framework))
    theta = found.theta
    close(numpy(found.hessian() @ theta), hessian() @ VECTOR)
    assert found.samples == 11
