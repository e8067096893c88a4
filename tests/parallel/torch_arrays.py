"""Checks of vectors that two processes hold together, against one process."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import specop
from specop.arrays import backend_of
from specop.arrays.layout import Layout
from specop.arrays.memory import free_host_memory
from specop.testing import check_backend
from specop_torch.groups import group_of

MESH = init_device_mesh("cpu", (distributed.get_world_size(),))
RNG = np.random.default_rng(0)


def spread(array):
    """The DTensor of a NumPy array, cut along its last axis; as distribute_tensor makes it, which asks the others."""
    tensor = torch.from_numpy(np.array(array))
    if not tensor.ndim:
        return DTensor.from_local(tensor, MESH, [Replicate()], run_check=False)
    parts = [*tensor.chunk(MESH.size(), -1), *[tensor[..., :0]] * MESH.size()]
    cut, own = [Shard(tensor.ndim - 1)], parts[distributed.get_rank()].contiguous()
    return DTensor.from_local(own, MESH, cut, run_check=False, shape=tensor.shape, stride=tensor.stride())


def hosted(x):
    return backend_of(x).to_numpy(x)


def same_everywhere(*arrays):
    """Fail unless all processes have the same bits."""
    told = [None] * distributed.get_world_size()
    distributed.all_gather_object(told, [np.asarray(array).tobytes() for array in arrays])
    assert all(one == told[0] for one in told)


def of_one(compute):
    """What the first process computes alone and tells the others: an answer to compare with is needed once."""
    group = group_of(MESH)
    with group.together():
        found = compute() if group.index == 0 else None
    return group.of_first(found)


def check_all_laws_of_a_backend():
    # In float64 all that follows computes.
    check_backend(backend_of(spread(np.zeros(3))), spread, dtypes=["float32"])


def check_processes_of_a_machine_share_what_is_free():
    x = spread(np.zeros(3))
    backend = backend_of(x)
    share = backend.free_memory(backend.layout(x)) * distributed.get_world_size() / free_host_memory()
    # Others take and leave memory meanwhile.
    assert 0.7 < share < 1.4, share


def check_a_dtensor_has_a_backend_of_its_own():
    x = spread(np.arange(5.0))
    assert backend_of(x) is not backend_of(torch.zeros(5))
    assert backend_of(x).layout(x).n == 5
    # Three entries for the first process, two for the second.
    assert x.to_local().shape == ((3,), (2,))[distributed.get_rank()]
    # As it is: an operator of tensors must not take a part for the whole, nor the other way round.
    A = specop.DiagonalOperator(torch.ones(5, dtype=torch.float64))
    with pytest.raises(specop.errors.InvalidInputError, match="on one device, got one that is spread"):
        A @ x
    with pytest.raises(specop.errors.InvalidInputError, match="DTensor"):
        specop.DiagonalOperator(x) @ torch.ones(5, dtype=torch.float64)


def check_arrays_that_are_cut_otherwise_are_refused():
    whole = distribute_tensor(torch.ones(6, dtype=torch.float64), MESH, [Replicate()])
    with pytest.raises(specop.errors.InvalidInputError, match="must be cut along its last"):
        specop.DiagonalOperator(whole)
    with pytest.raises(specop.errors.InvalidInputError, match=r"operand.*must be cut along its last"):
        specop.DiagonalOperator(spread(np.ones(6))) @ whole
    by_rows = distribute_tensor(torch.eye(6, dtype=torch.float64), MESH, [Shard(0)])
    with pytest.raises(specop.errors.InvalidInputError, match="must be cut along its last"):
        specop.DenseOperator(by_rows)


def symmetric(n, seed=0):
    matrix = np.random.default_rng(seed).standard_normal((n, n))
    return matrix + matrix.T


def check_eigsh_with_restarts_is_that_of_one_process():
    # 41 entries: 21 and 20.
    matrix = symmetric(41)
    A, exact = specop.DenseOperator(spread(matrix), is_symmetric=True), scipy.linalg.eigvalsh(matrix)
    for which in ("LM", "BE"):
        options = {"k": 2, "which": which, "ncv": 16, "tol": 1e-12, "max_matvecs": 2000}
        found = specop.eigsh(A, **options)
        own = of_one(lambda options=options: specop.eigsh(matrix, **options).eigenvalues)
        assert found.matvecs > 32
        assert np.abs(found.eigenvalues - own).max() < 1e-12 * np.abs(exact).max()
        assert found.converged and isinstance(found.rows, DTensor)
        rows = hosted(found.rows)
        assert np.abs(rows @ matrix - found.eigenvalues[:, None] * rows).max() < 1e-11 * np.abs(exact).max()
        same_everywhere(found.eigenvalues, found.residuals, found.bounds, found.matvecs)
        # Each process holds n/R entries of each vector.
        assert found.rows.to_local().shape[1] == ((21, 20), (14, 14, 13))[MESH.size() - 2][distributed.get_rank()]


def check_results_are_starts_and_known_pairs():
    matrix = symmetric(41, seed=1)
    A = specop.DenseOperator(spread(matrix), is_symmetric=True)
    alone = specop.eigsh(matrix, k=3, tol=1e-10)
    found = specop.eigsh(A, k=3, tol=1e-10)
    left = specop.trace(matrix, deflate=alone, max_matvecs=20).estimate
    # Among the same processes, and from and to one that is alone.
    for operator, known in ((A, found), (A, alone), (matrix, found)):
        again = specop.eigsh(operator, k=3, tol=1e-8, v0=known, check_multiplicity=False)
        assert again.matvecs <= 8
        assert np.allclose(again.eigenvalues, alone.eigenvalues, atol=1e-9)
        assert specop.trace(operator, deflate=known, max_matvecs=20).estimate == pytest.approx(left, abs=1e-8)


def check_estimates_and_solves_are_those_of_one_process():
    n = 31
    matrix = symmetric(n, seed=2)
    positive = matrix @ matrix + np.eye(n)
    size = np.abs(np.linalg.eigvalsh(positive)).max()
    A = specop.DenseOperator(spread(positive), is_symmetric=True, is_psd=True)
    b = np.random.default_rng(3).standard_normal(n)

    def estimates(M):
        return [
            specop.trace(M, seed=1, method="hutchinson", max_matvecs=12).estimate,
            specop.trace(M, seed=1).estimate,
            specop.logdet(M, seed=1, max_matvecs=20).estimate,
            specop.rank(M, seed=1).rank,
            specop.spectral_density(M, probes=2, steps=16, seed=1).nodes,
            hosted(specop.diagonal(M, seed=1).x),
        ]

    ours, own = estimates(A), of_one(lambda: estimates(positive))
    for mine, alone, tolerance in zip(ours, own, [1e-12 * n] * 4 + [1e-11, 1e-12], strict=True):
        assert np.abs(mine - alone).max() < tolerance * size
        same_everywhere(mine)
    for method in ("lanczos", "cg", "minres"):
        ours = specop.solve(A, spread(b), method=method, rtol=1e-12)
        assert np.abs(hosted(ours.x) - np.linalg.solve(positive, b)).max() < 1e-9
    block = np.random.default_rng(4).standard_normal((n, 2))
    image = A @ distribute_tensor(torch.from_numpy(block), MESH, [Shard(0)])
    assert np.abs(hosted(image) - positive @ block).max() < 1e-12 * size
    assert np.abs(hosted(A.to_dense()) - positive).max() == 0


def check_operators_made_of_others():
    n = 21
    matrix, entries = symmetric(n, seed=5), np.arange(1.0, n + 1)
    A, D = specop.DenseOperator(spread(matrix), is_symmetric=True), specop.DiagonalOperator(spread(entries))
    x = np.random.default_rng(6).standard_normal(n)
    rows = np.random.default_rng(7).standard_normal((4, n))
    low = specop.LowRankOperator(spread(rows), spread(np.arange(4.0)))
    some = [3, 20, 0, 11]
    for operator, dense in (
        (A + 2 * D, matrix + 2 * np.diag(entries)),
        (A @ D, matrix @ np.diag(entries)),
        (low, rows.T @ np.diag(np.arange(4.0)) @ rows),
        (specop.restrict(A, some), matrix[np.ix_(some, some)]),
        (specop.on_host(A), matrix),
        (specop.identity_like(A) + D, np.eye(n) + np.diag(entries)),
    ):
        vector = x[: len(dense)] if isinstance(operator, type(specop.on_host(A))) else spread(x[: len(dense)])
        assert np.abs(hosted(operator @ vector) - dense @ x[: len(dense)]).max() < 1e-12 * np.abs(dense).sum()
    assert np.abs(A.to_scipy() @ x - matrix @ x).max() < 1e-12 * np.abs(matrix).sum()
    inverse = specop.ShermanMorrison(damping=0.5, rows=spread(rows))
    exact = np.linalg.inv(rows.T @ rows / 4 + 0.5 * np.eye(n))
    assert np.abs(hosted(inverse @ spread(x)) - exact @ x).max() < 1e-12 * np.abs(exact).sum()


def check_fewer_entries_than_processes_hold():
    for n in (1, 2, 3):
        matrix = symmetric(n, seed=n)
        A = specop.DenseOperator(spread(matrix), is_symmetric=True)
        assert np.allclose(specop.eigsh(A, k=n).eigenvalues, np.linalg.eigvalsh(matrix), atol=1e-12)
        x = specop.solve(A, spread(np.ones(n)), rtol=1e-12).x
        assert np.allclose(hosted(x), np.linalg.solve(matrix, np.ones(n)))


def check_numbers_that_squares_do_not_hold():
    # Norms come from sums of squares: 1e-200 and 1e200 have none, and zero and NaN stay.
    backend = backend_of(spread(np.ones(2)))
    for size in (1e-200, 1e200, 1.0):
        (norm,) = backend.to_host(backend.norm(spread(size * np.ones(4))))
        assert norm == pytest.approx(2 * size, rel=1e-14)
    assert backend.to_host(backend.norm(spread(np.zeros(4))))[0] == 0
    assert np.isnan(backend.to_host(backend.norm(spread(np.array([1.0, 2.0, np.nan]))))[0])
    assert backend.layout(spread(np.zeros(4))) != Layout(4, np.dtype(np.float64), torch.device("cpu"))
