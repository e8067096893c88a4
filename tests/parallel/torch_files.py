"""Checks of what two processes share besides vectors: files, clocks, callbacks."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed
from torch.distributed import checkpoint as checkpoint_of_torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import specop
from parallel.torch_arrays import hosted, same_everywhere, spread, symmetric
from parallel.torch_parts import told_by_all
from specop.errors import ConvergenceWarning, InvalidInputError
from specop.krylov import checkpoint

RANK, COUNT = distributed.get_rank(), distributed.get_world_size()
FOLDER = Path(os.environ["SPECOP_GROUP"])
MATRIX = symmetric(41, seed=9)
LARGEST = np.sort(sorted(np.linalg.eigvalsh(MATRIX), key=abs)[-3:])
ALONE = specop.DenseOperator(torch.from_numpy(MATRIX), is_symmetric=True)


def files(pattern):
    """The names of files, as the process sees them that makes and removes them."""
    return sorted(one.name for one in FOLDER.glob(pattern)) if RANK == 0 else None


def operator():
    return specop.DenseOperator(spread(MATRIX), is_symmetric=True)


def check_results_are_saved_once_and_read_anywhere():
    path = FOLDER / "result.npz"
    found = specop.eigsh(operator(), k=3, tol=1e-10)
    found.save(path)
    kept = specop.load(path)
    assert np.array_equal(kept.rows, hosted(found.rows)) and np.array_equal(kept.eigenvalues, found.eigenvalues)
    assert files("result*") in (["result.npz"], None)
    # In one process, and in both.
    for A in (MATRIX, operator()):
        again = specop.eigsh(A, k=3, v0=kept, tol=1e-8, check_multiplicity=False)
        assert again.matvecs <= 8 and np.allclose(again.eigenvalues, found.eigenvalues, atol=1e-9)
        specop.trace(A, deflate=kept, max_matvecs=10)
    x = specop.solve(operator(), spread(np.ones(41)), rtol=1e-10)
    x.save(FOLDER / "solve.npz")
    assert np.array_equal(specop.load(FOLDER / "solve.npz").x, hosted(x.x))
    # A folder that is not there is an error in both.
    told = told_by_all(lambda: found.save(FOLDER / "nowhere" / "result.npz"), FileNotFoundError)
    assert all("nowhere" in text for text in told)


def check_vectors_are_saved_in_parts_and_read_by_other_numbers():
    """As torch.distributed.checkpoint does, in which each process writes and reads what it holds."""
    folder = FOLDER / "parts"
    found = specop.eigsh(operator(), k=3, tol=1e-10)
    checkpoint_of_torch.save({"rows": found.rows}, checkpoint_id=folder)

    def goes_on(A, rows):
        known = replace(found, rows=rows)
        again = specop.eigsh(A, k=3, v0=known, tol=1e-8, check_multiplicity=False)
        assert again.matvecs <= 8 and np.allclose(again.eigenvalues, found.eigenvalues, atol=1e-9)
        left = specop.trace(A, deflate=known, max_matvecs=20, method="hutchinson")
        assert left.estimate == pytest.approx(np.trace(MATRIX), abs=5.0 * left.standard_error)

    as_many = spread(np.zeros((3, 41)))
    checkpoint_of_torch.load({"rows": as_many}, checkpoint_id=folder)
    assert torch.equal(as_many.to_local(), found.rows.to_local())
    goes_on(operator(), as_many)
    # One process, in a mesh of its own, and without one.
    alone = init_device_mesh("cpu", (COUNT, 1), mesh_dim_names=("other", "own"))["own"]
    rows = distribute_tensor(torch.zeros(3, 41, dtype=torch.float64), alone, [Shard(1)])
    checkpoint_of_torch.load({"rows": rows}, checkpoint_id=folder, process_group=alone.get_group())
    assert np.array_equal(hosted(rows), hosted(found.rows))
    matrix = distribute_tensor(torch.from_numpy(MATRIX), alone, [Shard(1)])
    goes_on(specop.DenseOperator(matrix, is_symmetric=True), rows)
    whole = torch.zeros(3, 41, dtype=torch.float64)
    checkpoint_of_torch.load({"rows": whole}, checkpoint_id=folder, no_dist=True)
    goes_on(ALONE, whole)
    # Each gives the other's vectors to its own operator, too.
    goes_on(operator(), whole)
    goes_on(ALONE, as_many)
    distributed.barrier()


OPTIONS = {"k": 3, "ncv": 16, "tol": 1e-9, "seed": 4}


def begun(A, path):
    """A run that has used up its products, with restarts, and is kept in a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return specop.eigsh(A, **OPTIONS, max_matvecs=30, checkpoint=path)


def check_checkpoints_go_on_with_as_many_processes_and_with_others():
    path = FOLDER / "run.npz"
    whole = specop.eigsh(operator(), **OPTIONS, max_matvecs=4000)
    assert whole.matvecs > 40

    def same(found):
        # One product for each of the two starts shows that the file belongs to the matrix.
        assert np.abs(found.eigenvalues - whole.eigenvalues).max() < 1e-12 * np.abs(MATRIX).sum(1).max()
        assert whole.matvecs <= found.matvecs <= whole.matvecs + 4

    begun(operator(), path)
    assert files("run*") in (["run.npz"], None)
    same(specop.eigsh(operator(), **OPTIONS, max_matvecs=4000, checkpoint=path))
    assert not files("run*")
    # One process alone goes on from what two have saved, and two from what one has.
    begun(operator(), path)
    distributed.barrier()
    if RANK == 0:
        same(specop.eigsh(ALONE, **OPTIONS, max_matvecs=4000, checkpoint=path))
        begun(ALONE, path)
    distributed.barrier()
    found = specop.eigsh(operator(), **OPTIONS, max_matvecs=4000, checkpoint=path)
    same(found)
    same_everywhere(found.eigenvalues, found.matvecs)


def check_a_killed_run_leaves_its_file_when_the_first_clock_says_so():
    path = FOLDER / "killed.npz"

    def callback(state):
        if state.matvecs == 6:
            raise RuntimeError("enough")

    before = checkpoint.INTERVAL
    # Without the first clock the second would never save, and the other way round they would wait for each other.
    checkpoint.INTERVAL = -1.0 if RANK == 0 else 1e9
    try:
        told = told_by_all(
            lambda: specop.eigsh(operator(), **OPTIONS, checkpoint=path, callback=callback), RuntimeError
        )
    finally:
        checkpoint.INTERVAL = before
    assert all("enough" in text for text in told) and path.exists()
    found = specop.eigsh(operator(), **OPTIONS, max_matvecs=4000, checkpoint=path)
    assert np.abs(found.eigenvalues - LARGEST).max() < 1e-8


def check_vectors_on_the_host_are_whole_in_each_process_and_files_are_still_one():
    path = FOLDER / "host.npz"
    begun(specop.on_host(operator()), path)
    found = specop.eigsh(specop.on_host(operator()), **OPTIONS, max_matvecs=4000, checkpoint=path)
    assert isinstance(found.rows, np.ndarray) and not files("host*")
    assert np.abs(found.eigenvalues - LARGEST).max() < 1e-8


def check_a_file_of_another_run_is_refused_in_all():
    path = FOLDER / "other.npz"
    specop.eigsh(operator(), k=2, checkpoint=path, callback=lambda state: state.matvecs == 10)
    told = told_by_all(lambda: specop.eigsh(operator(), k=3, checkpoint=path), InvalidInputError)
    assert all("k=2, not 3" in text for text in told)
    assert not files("other*.lock")


def check_the_first_process_decides_when_to_stop():
    seen = []

    def callback(state):
        seen.append(state.matvecs)
        # The other process would never stop, or too early.
        return state.matvecs >= (12 if RANK == 0 else 5)

    found = specop.eigsh(operator(), k=2, callback=callback)
    assert found.matvecs == 12 and seen == list(range(seen[0], 13))
    same_everywhere(found.eigenvalues)


def check_warnings_and_bars_are_the_first_process_s():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        specop.eigsh(operator(), k=3, ncv=12, max_matvecs=14, progress=True)
    assert [one.category for one in caught] == [ConvergenceWarning] * (RANK == 0)
    # As an error it is one in both.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = told_by_all(
            lambda: specop.eigsh(operator(), k=3, ncv=12, max_matvecs=14), (Warning, specop.errors.ProcessError)
        )
    assert "process 0 of 2" in told[1]
