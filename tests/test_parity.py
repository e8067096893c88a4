"""The same model, weights, data and seed in every framework: the same curvature.

The reference is PyTorch's own autograd in float64, without specop; `parity/problems.py` says what is computed.
"""

import functools
import itertools
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

import specop
from parity.problems import PROBLEMS
from specop import probes
from specop.backend import backend_of
from specop.testing import check_objective

torch = pytest.importorskip("torch")

# Frameworks that are installed and have an adapter.
FRAMEWORKS = [name for name in ("torch", "jax", "tensorflow") if find_spec(name) and find_spec(f"specop_{name}")]
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}


def parametrized(is_quick):
    """Every framework, model and dtype; what compiles for long beyond the quick ones is slow."""
    return pytest.mark.parametrize(
        ("framework", "name", "dtype"),
        [
            pytest.param(*case, marks=[] if case[0] == "torch" or is_quick(*case) else pytest.mark.slow)
            for case in itertools.product(FRAMEWORKS, PROBLEMS, TOLERANCES)
        ],
    )


each = parametrized(lambda framework, name, dtype: name == "mlp" or dtype == "float64")
each_of_few = parametrized(lambda _, name, dtype: name == "mlp" or (name, dtype) == ("wide and deep", "float64"))


@functools.cache
def reference(name):
    """Loss, gradient and dense Hessian of the mean over all samples."""
    params, passes, criterion = forward(name)
    samples = sum(len(z) for z, _ in passes)
    loss = sum(criterion(z, y) * len(z) / samples for z, y in passes)
    gradient = flat(torch.autograd.grad(loss, params, create_graph=True))
    unit = torch.eye(len(gradient), dtype=torch.float64)
    rows = torch.autograd.grad(gradient, params, unit, is_grads_batched=True)
    return loss.item(), gradient.detach().numpy(), torch.cat([block.flatten(1) for block in rows], dim=1).numpy()


@functools.cache
def matrices(name):
    """The same of curvature matrices, by their definitions; of the sampled Fisher matrix what torch's adapter makes."""
    params, passes, criterion = forward(name)
    samples = sum(len(z) for z, _ in passes)
    jacobians, rows, ggn = [], [], 0
    for z, y in passes:
        unit = torch.eye(z.numel(), dtype=torch.float64).reshape(-1, *z.shape)
        parts = torch.autograd.grad(z, params, unit, is_grads_batched=True)
        J = torch.cat([part.flatten(1) for part in parts], dim=1)
        share, z = len(z) / samples, z.detach()
        H = torch.autograd.functional.hessian(lambda z, y=y: criterion(z, y), z).reshape(z.numel(), z.numel())
        r = torch.autograd.functional.jacobian(lambda z, y=y: criterion(z, y), z)
        ggn += share * J.T @ H @ J
        rows.append(share * samples * (r.reshape(len(z), -1, 1) * J.reshape(len(z), -1, J.shape[1])).sum(1))
        jacobians.append(J)
    rows = torch.cat(rows)
    found = {"ggn": ggn, "fisher": ggn, "empirical": rows.T @ rows / samples, "rows": rows}
    found |= {"jacobian": torch.cat(jacobians), "mc": operator(objective("torch", name, "float64"), "mc").to_dense()}
    return {kind: matrix.numpy() for kind, matrix in found.items()}


def operator(found, kind):
    if kind in ("ggn", "jacobian"):
        return getattr(found, kind)()
    return found.fisher("exact" if kind == "fisher" else kind, samples=2, seed=5)


def forward(name):
    """Leaves, outputs and labels of each batch, and the criterion."""
    models, problem = import_module("parity.torch_models"), PROBLEMS[name]
    outputs, criterion = models.MODELS[name]
    params = [models.array(weight, "float64").requires_grad_() for weight in problem.weights.values()]
    batches = [tuple(models.array(part, "float64") for part in batch) for batch in problem.batches]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return params, [(outputs(params, batch), batch[1]) for batch in batches], criterion


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


@functools.cache
def objective(framework, name, dtype):
    return import_module(f"parity.{framework}_models").objective(PROBLEMS[name], dtype)


def numpy(native):
    return np.array(backend_of(native).to_numpy(native), dtype=np.float64)


def close(found, expected, dtype):
    """Equal within the dtype's tolerance, relative to the norm of what is expected."""
    assert np.linalg.norm(found - expected) <= TOLERANCES[dtype] * np.linalg.norm(expected)


@each
def test_loss_and_derivatives(framework, name, dtype):
    loss, gradient, hessian = reference(name)
    problem, found = PROBLEMS[name], objective(framework, name, dtype)
    assert found.n == problem.n and found.samples == sum(len(x) for x, _ in problem.batches)
    close(numpy(found.loss()), loss, dtype)
    close(numpy(found.gradient()), gradient, dtype)
    H = found.hessian()
    assert H.dtype == dtype
    if dtype == "float64":
        close(numpy(H.to_dense()), hessian, dtype)
    else:
        block = np.random.default_rng(0).standard_normal((3, problem.n))
        for vector in block:
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


def parameters(framework, name, dtype):
    models = import_module(f"parity.{framework}_models")
    return [models.array(weight, dtype) for weight in PROBLEMS[name].weights.values()]


@each
def test_parameter_vectors(framework, name, dtype):
    """The vector has the order of `Problem.weights`: the weights themselves, flattened one after the other."""
    found = objective(framework, name, dtype).flatten(parameters(framework, name, dtype))
    np.testing.assert_array_equal(numpy(found), PROBLEMS[name].vector.astype(dtype))


@each_of_few
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


@each
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
