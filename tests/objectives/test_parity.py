"""The same model, weights, data and seed in every framework: the same curvature.

The reference is PyTorch's own autograd in float64, without specop; `parity/problems.py` says what is computed.
"""

import numpy as np
import pytest

import specop
import specop.errors
from parity.cases import (
    FRAMEWORKS,
    TOLERANCES,
    close,
    each,
    each_by_products,
    each_of_few,
    each_of_one,
    numpy,
    objective,
    operator,
    parameters,
)
from parity.problems import PROBLEMS
from specop.arrays import probes
from specop.arrays.backend import backend_of
from specop.testing import check_objective

pytest.importorskip("torch")
pytestmark = [pytest.mark.smoke, pytest.mark.adapter]

from parity.references import matrices, reference


@each
def test_loss_and_derivatives(framework, name, dtype):
    loss, gradient, hessian = reference(name)
    problem, found = PROBLEMS[name], objective(framework, name, dtype)
    assert found.n == problem.n and found.samples == sum(len(x) for x, _ in problem.batches)
    close(numpy(found.loss()), loss, dtype)
    close(numpy(found.gradient()), gradient, dtype)
    H = found.hessian()
    assert H.dtype == dtype
    for vector in np.random.default_rng(0).standard_normal((3, problem.n)):
        close(numpy(H @ H.backend.from_host(vector, H.domain)), hessian @ vector, dtype)


# In single precision one model is enough: that dtypes are kept is no matter of the model.
@pytest.mark.parametrize("kind", ["ggn", "fisher", "mc", "empirical", "jacobian"])
@each_of_few
def test_curvature_matrices(framework, name, dtype, kind):
    """The same seed gives the same labels in every framework, hence the same sampled Fisher matrix."""
    expected = matrices(name)[kind]
    A = operator(objective(framework, name, dtype), kind)
    assert A.shape == expected.shape and A.dtype == dtype
    for B, matrix in ((A, expected), (A.T, expected.T)):
        # The first product is recorded, the second one replayed.
        for vector in np.random.default_rng(0).standard_normal((2, B.shape[1])):
            close(numpy(B @ B.backend.from_host(vector, B.domain)), matrix @ vector, dtype)


@each_of_few
def test_gradients_of_samples(framework, name, dtype):
    expected = matrices(name)["rows"]
    found = objective(framework, name, dtype)
    blocks = found.per_sample_gradients(block_bytes=7 * found.n * np.dtype(dtype).itemsize)
    close(np.concatenate([numpy(block) for block in blocks]), expected, dtype)


@each
def test_parameter_vectors(framework, name, dtype):
    """The vector has the order of `Problem.weights`: the weights themselves, flattened one after the other."""
    found = objective(framework, name, dtype).flatten(parameters(framework, name, dtype))
    np.testing.assert_array_equal(numpy(found), PROBLEMS[name].vector.astype(dtype))


@each_of_one
def test_laws_of_an_objective(framework, name, dtype):
    found, (_, _, hessian) = objective(framework, name, dtype), reference(name)
    check_objective(found, params=parameters(framework, name, dtype), dense=hessian)


@each
def test_probes_are_the_same_bits(framework, name, dtype):
    H = objective(framework, name, dtype).hessian()
    host = backend_of(np.empty(0))
    layout = host.layout(np.empty(H.shape[0], dtype=dtype))
    for draw in (probes.rademacher, probes.normal):
        found = H.backend.to_numpy(draw(H.backend, H.domain, 3, 1))
        np.testing.assert_array_equal(found, draw(host, layout, 3, 1))


@each_by_products
def test_eigenvalues(framework, name, dtype):
    _, _, hessian = reference(name)
    exact = np.linalg.eigvalsh(hessian)
    largest = np.abs(exact).max()
    H = objective(framework, name, dtype).hessian()
    found = specop.eigsh(H, k=4, tol=1e-7 if dtype == "float64" else 1e-3, seed=2)
    top = np.sort(exact[np.argsort(-np.abs(exact))[:4]])
    np.testing.assert_allclose(found.eigenvalues, top, rtol=0, atol=TOLERANCES[dtype] * largest)
    for i, value in enumerate(found.eigenvalues):
        vector = numpy(found.eigenvector(i))
        error = np.linalg.norm(hessian @ vector - value * vector)
        assert error <= found.residuals[i] + TOLERANCES[dtype] * largest


@each
def test_estimates_with_one_seed(framework, name, dtype):
    """Estimates use the same probes, so their random errors are the same too."""
    _, _, hessian = reference(name)
    A = specop.DenseOperator(hessian, is_symmetric=True)
    H = objective(framework, name, dtype).hessian()
    settings = {"method": "hutchinson", "max_matvecs": 10, "seed": 4}
    found, expected = specop.trace(H, **settings), specop.trace(A, **settings)
    scale = np.linalg.norm(hessian)
    assert abs(found.estimate - expected.estimate) <= TOLERANCES[dtype] * max(scale, abs(expected.estimate))
    assert abs(found.standard_error - expected.standard_error) <= TOLERANCES[dtype] * scale
    found, expected = (specop.spectral_density(B, steps=10, probes=2, seed=4) for B in (H, A))
    largest = np.abs(expected.nodes).max()
    for power in (1, 2, 3):
        found_moment, expected_moment = (float(density.moment(power).estimate) for density in (found, expected))
        assert abs(found_moment - expected_moment) <= TOLERANCES[dtype] * largest**power
    x = np.linspace(-largest, largest, 50)
    np.testing.assert_allclose(
        found.pdf(x, sigma=0.1 * largest),
        expected.pdf(x, sigma=0.1 * largest),
        atol=10 * TOLERANCES[dtype] * expected.pdf(x, sigma=0.1 * largest).max(),
    )


@pytest.mark.parametrize(
    "kind", ["hessian", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ggn", "fisher", "empirical fisher"))]
)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_damped_solves(framework, kind, name="mlp", dtype="float64"):
    """The damping adds to the matrix of the mean loss, and the result says so."""
    _, gradient, hessian = reference(name)
    matrix = hessian if kind == "hessian" else matrices(name)[kind.removesuffix(" fisher")]
    found, n = objective(framework, name, dtype), PROBLEMS[name].n
    b = found.gradient()
    for damping in (0.1 - np.linalg.eigvalsh(matrix)[0], 2.0):
        result = found.solve(b, matrix=kind, damping=damping, rtol=1e-12)
        close(numpy(result.x), np.linalg.solve(matrix + damping * np.eye(n), gradient), dtype)
        assert result.converged and result.damping == damping and result.samples == found.samples
        assert f"+ {damping:g} I) x = b" in result.system and "mean" in result.system
    tree = found.solve(found.unflatten(b), matrix=kind, damping=2.0)
    np.testing.assert_array_equal(numpy(found.flatten(tree.x)), numpy(tree.solution))


def test_damped_solves_refuse_what_they_do_not_know():
    found = objective("torch", "mlp", "float64")
    with pytest.raises(specop.errors.InvalidInputError, match="matrix must be one of 'hessian', 'ggn', 'fisher'"):
        found.solve(found.gradient(), matrix="kfac", damping=1.0)
    with pytest.raises(specop.errors.InvalidInputError, match="damping must be a finite number >= 0, got -1"):
        found.solve(found.gradient(), damping=-1)
    with pytest.warns(specop.errors.ConvergenceWarning, match=r"curvature -.*Add damping above"):
        found.solve(found.gradient(), damping=0.0, method="cg")
