"""Every algorithm on arrays that refuse the core: it may hand them on, and nothing else."""

import numpy as np
import pytest

import specop
from specop.arrays import backend_of

N = 40


def definite():
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    return q @ np.diag(1.0 + np.arange(N) / 4) @ q.T


class Home:
    """One framework: how its arrays are made and read, and an operator of them."""

    def __init__(self, array):
        self.array = array
        self.matrix = specop.DenseOperator(array(definite()), is_psd=True)
        self.b = array(np.arange(1.0, N + 1))
        self.block = array(np.random.default_rng(1).standard_normal((N, 3)))
        self.rows = array(np.random.default_rng(2).standard_normal((25, N)))
        self.shift = 0.5 * specop.identity_like(self.matrix)

    def numpy(self, x):
        """What a call gave, as numbers."""
        if isinstance(x, (float, int, tuple, np.ndarray)):
            return np.asarray(x, dtype=float)
        return np.asarray(backend_of(x).to_numpy(x), dtype=float)


def sherman_morrison(home, **options):
    inverse = specop.ShermanMorrison(damping=0.1, rows=home.rows, **options)
    inverse.update(home.b)
    inverse.downdate(home.array(np.arange(1.0, N + 1)))
    return home.numpy(inverse @ home.b), home.numpy(inverse @ home.block), inverse[0, 1], home.numpy(inverse.diagonal())


def preconditioned(home):
    eigen = specop.eigsh(home.matrix, k=5)
    M = specop.eigen_preconditioner(home.matrix, eigen)
    return specop.solve(home.matrix, home.b, preconditioner=M, rtol=1e-10).x


def nystrom(home):
    M = specop.nystrom_preconditioner(home.matrix, damping=0.5)
    return specop.solve(home.matrix + home.shift, home.b, rtol=1e-8, preconditioner=M).x


def deflated(home):
    known = specop.eigsh(home.matrix, k=3, tol=1e-9)
    again = specop.eigsh(home.matrix, k=3, v0=known, tol=1e-9)
    return (
        *again.eigenvalues,
        specop.trace(home.matrix, deflate=known, max_matvecs=20).estimate,
        *specop.spectral_density(home.matrix, deflate=known, steps=8, probes=2).weights,
    )


def algebra(home):
    A = home.matrix
    B = specop.DenseOperator(home.rows)
    C = (2 * A - A / 3) @ A + B.T @ B + specop.LowRankOperator(home.rows) + specop.DiagonalOperator(home.b)
    part = specop.restrict(C, [4, 2, 7])
    return home.numpy(C @ home.b), home.numpy(home.b @ C), home.numpy(C @ home.block), home.numpy(part.to_dense())


CALLS = {
    "algebra": algebra,
    "on_host": lambda home: specop.on_host(home.matrix) @ np.ones(N),
    "to_scipy": lambda home: home.matrix.to_scipy() @ np.ones(N),
    "eigsh": lambda home: specop.eigsh(home.matrix, k=4, which="SA", tol=1e-9).eigenvalues,
    "eigsh of both ends": lambda home: specop.eigsh(home.matrix, k=3, which="LM", ncv=8, tol=1e-9).residuals < 1e-6,
    "v0 and deflate": deflated,
    "power_iteration": lambda home: specop.power_iteration(home.matrix, tol=1e-2).eigenvalues,
    "trace": lambda home: specop.trace(home.matrix, max_matvecs=30).estimate,
    "hutchinson": lambda home: specop.trace(home.matrix, method="hutchinson", max_matvecs=30).estimate,
    "diagonal": lambda home: specop.diagonal(home.matrix, method="exact").x,
    "estimated diagonal": lambda home: specop.diagonal(home.matrix, max_matvecs=30).x,
    "frobenius_norm": lambda home: specop.frobenius_norm(home.matrix, max_matvecs=30).estimate,
    "spectral_norm": lambda home: specop.spectral_norm(home.matrix).estimate,
    "condition_number": lambda home: specop.condition_number(home.matrix).estimate,
    "density": lambda home: specop.spectral_density(home.matrix, steps=12, probes=2).nodes,
    "rank": lambda home: specop.rank(specop.LowRankOperator(home.rows), 1e-3).rank,
    "logdet": lambda home: specop.logdet(home.matrix, rtol=0.1).estimate,
    "effective_dimension": lambda home: specop.effective_dimension(home.matrix, damping=1.0, rtol=0.1).estimate,
    "apply_function": lambda home: specop.apply_function(home.matrix, np.sqrt, home.b).x,
    **{
        method: lambda home, method=method: specop.solve(home.matrix, home.b, method=method, rtol=1e-8).x
        for method in ("lanczos", "cg", "minres", "neumann")
    },
    "solve a block": lambda home: specop.solve(home.matrix, home.block, rtol=1e-8).x,
    "solve from x0": lambda home: specop.solve(home.matrix, home.b, x0=home.b, rtol=1e-8).x,
    "solve_shifted": lambda home: specop.solve_shifted(home.matrix, home.b, [0.5, 2.0], rtol=1e-8).x,
    "eigen_preconditioner": preconditioned,
    "nystrom_preconditioner": nystrom,
    "inverse": lambda home: specop.inverse(home.matrix + home.shift, rtol=1e-8) @ home.b,
    "inverse of a low rank": lambda home: specop.inverse(specop.LowRankOperator(home.rows) + home.shift) @ home.block,
    "low_rank_update": lambda home: (
        specop.low_rank_update(specop.DiagonalOperator(home.b), home.block, V=home.array(np.ones((N, 3)))) @ home.b
    ),
    "lissa": lambda home: specop.lissa([home.matrix, home.shift], home.b, damping=0.1, steps=20, repeats=2).x,
    "ShermanMorrison": sherman_morrison,
    "half rows on the host": lambda home: sherman_morrison(home, half=True, store="host"),
    "half rows of blocks": lambda home: sherman_morrison(home, half=True, blocks=[slice(0, 10), slice(10, N)]),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_core_hands_arrays_on_and_nothing_else(minicupy, name):
    found, expected = (CALLS[name](home) for home in (Home(minicupy.asarray), Home(np.array)))
    if not isinstance(found, tuple):
        found, expected = (found,), (expected,)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(Home.numpy(None, one), Home.numpy(None, other), rtol=1e-6, atol=1e-6)


def test_results_and_checkpoints_of_opaque_vectors(minicupy, tmp_path):
    A = Home(minicupy.asarray).matrix
    found = specop.eigsh(A, k=2, checkpoint=tmp_path / "run.npz")
    found.save(tmp_path / "eigen.npz")
    again = specop.load(tmp_path / "eigen.npz")
    np.testing.assert_array_equal(again.eigenvector(1), found.eigenvector(1).get())
    np.testing.assert_array_equal(again.eigenvectors, found.eigenvectors.get())
    assert specop.eigsh(A, k=2, v0=again).matvecs < found.matvecs and "2 eigenvalues" in repr(found)
    for result in (found, specop.solve(A, minicupy.asarray(np.ones(N)))):
        assert "matvecs" in result.summary() and repr(result)


@pytest.fixture(params=[None, 0], ids=["linearized", "recomputed"])
def objective(minicupy, request):
    rng = np.random.default_rng(0)
    data = [tuple(minicupy.asarray(rng.standard_normal(shape)) for shape in [(k, 4), (k,)]) for k in (5, 9)]
    return specop.objective(minicupy.Regression(4), data=data, memory_budget=request.param)


def test_curvature_of_opaque_parameters_and_batches(objective):
    H, slope = objective.hessian(), objective.gradient()
    dense, g = H.to_dense().get(), slope.get()
    assert np.isfinite(objective.loss().get())
    np.testing.assert_allclose((H @ slope).get(), dense @ g)
    np.testing.assert_allclose(objective.flatten(H @ objective.unflatten(slope)).get(), dense @ g)
    np.testing.assert_allclose(specop.eigsh(H, k=2).eigenvalues, np.linalg.eigvalsh(dense)[-2:], rtol=1e-4)
    blocks = H.block_diagonal(["weight", "bias"]).to_dense().get()
    np.testing.assert_allclose(blocks[:4, :4], dense[:4, :4], atol=1e-12)
    assert not blocks[:4, 4:].any()
    np.testing.assert_allclose(H.coupling("weight", "bias").to_dense().get(), dense[:4, 4:], atol=1e-12)
    found = objective.solve(slope, damping=1.0).x.get()
    np.testing.assert_allclose(found, np.linalg.solve(dense + np.eye(5), g), rtol=1e-4, atol=1e-6)


def test_samples_of_opaque_batches(objective):
    rows = np.concatenate([block.get() for block in objective.per_sample_gradients()])
    np.testing.assert_allclose(rows.mean(0), objective.gradient().get(), atol=1e-12)
    moments = rows.T @ rows / len(rows)
    inverse = objective.inverse_fisher(damping=0.1)
    np.testing.assert_allclose(
        (inverse @ objective.gradient()).get(),
        np.linalg.solve(moments + 0.1 * np.eye(5), rows.mean(0)),
        atol=1e-10,
    )


# The model is not trained; numbers are another test's subject.
@pytest.mark.filterwarnings("ignore::specop.errors.QuadraticModelWarning")
def test_analysis_of_opaque_arrays(objective):
    found = specop.analysis.influence(objective, damping=2.0)
    several = specop.analysis.influence(objective, objective, per_sample=True, damping=2.0)
    np.testing.assert_allclose(found.scores, np.diag(several.scores), rtol=1e-3)
    gone = specop.analysis.leave_one_out(objective, [0, 3], damping=2.0)
    along = specop.analysis.influence(objective, objective.gradient(), indices=[0, 3], damping=2.0).scores
    np.testing.assert_allclose(gone.change(1).get() @ objective.gradient().get(), along[1], rtol=1e-3)
    assert "change of 5 parameters" in repr(gone)
    assert specop.analysis.prune(objective, 0.5, steps=2, groups=np.arange(5)[:, None]).sparsity == pytest.approx(0.4)
    assert len(specop.analysis.saliency(objective, matrix="hessian", damping=2.0, groups=[[0, 1], [2]]).measured()) == 2
