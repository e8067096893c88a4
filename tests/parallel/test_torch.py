"""Two processes of torch.distributed, joined by gloo: each check is run by both at the same time."""

import importlib
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import specop
from parallel import launch

pytestmark = pytest.mark.torch

TWO = (
    "torch_arrays",
    "torch_objectives",
    "torch_samples",
    "torch_functions",
    "torch_refusals",
    "torch_files",
    "torch_sharded",
    "torch_sharded_samples",
    "torch_layers",
    "torch_hooked",
    "torch_sharded_refusals",
)
SLOW = ("torch_slow",)


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    pytest.importorskip("torch")
    return launch.outcomes(tmp_path_factory, "torch_group", 2, TWO)


@pytest.mark.parametrize(("module", "name"), launch.checks_of(*TWO))
def test_two_processes(two, module, name):
    launch.report(two, module, name)


@pytest.fixture(scope="session")
def two_that_take_long(tmp_path_factory):
    pytest.importorskip("torch")
    return launch.outcomes(tmp_path_factory, "torch_group", 2, SLOW)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), launch.checks_of(*SLOW))
def test_two_processes_that_take_long(two_that_take_long, module, name):
    launch.report(two_that_take_long, module, name)


def test_a_process_that_dies_ends_the_others_and_the_run_goes_on(tmp_path):
    pytest.importorskip("torch")
    began = time.monotonic()
    first, second = launch.start(tmp_path, 2, "parallel.torch_dying", end=60)
    assert "ProcessError: process 0 of 2 has lost the others" in first and second == "dies\n", (first, second)
    assert time.monotonic() - began < 60
    # What was saved before goes on in one process.
    matrix = np.diag(np.arange(60.0))
    found = specop.eigsh(matrix, k=2, ncv=14, tol=1e-8, checkpoint=tmp_path / "run.npz")
    assert np.allclose(found.eigenvalues, [58, 59], atol=1e-6)
    assert found.matvecs > 20


def test_every_method_of_an_objective_is_known_or_refused():
    from specop.objectives.parallel import ParallelObjective

    inherited = {name for name in dir(specop.Objective) if not name.startswith("_")} - set(vars(ParallelObjective))
    # These are made of the others.
    assert inherited == {"matrix", "solve", "gradient_covariance", "plan", "inverse_fisher"}


def test_the_example_under_torchrun(tmp_path):
    """As a user starts it, against one process that has all data."""
    torch = pytest.importorskip("torch")
    example = importlib.import_module("ddp_torch")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": launch.PATHS}
    ran = subprocess.run(
        [*command, example.__file__, "--steps=5"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    dataset, model = example.data(), example.network()
    inputs, labels = dataset.tensors
    example.train(model, [(inputs[:300], labels[:300])], 5)
    own = specop.objective(model, torch.nn.functional.cross_entropy, (inputs, labels))
    exact = np.linalg.eigvalsh(own.hessian().to_dense().double().numpy())
    lines = ran.stdout.splitlines()
    assert lines[0] == f"2 processes, 301 samples, loss {float(own.loss()):.6f}"
    assert lines[1].startswith("each holds 194 of 387 entries")
    assert np.allclose([float(word) for word in lines[2].split()[2:]], exact[-3:], rtol=1e-4)
    _, estimate, _, error, *_ = lines[3].replace(",", "").split()
    assert abs(float(estimate) - exact.sum()) < 5 * float(error) + 1e-4
    assert lines[4].endswith("converged: True")
    assert np.allclose(specop.load(tmp_path / "eigen.npz").eigenvalues, exact[-3:], rtol=1e-4)


def test_the_page_shows_the_example():
    page, example = ((launch.ROOT / path).read_text() for path in ("docs/parallel.md", "examples/ddp_torch.py"))
    page = page.partition("## torch")[2].partition("\n## JAX")[0]
    blocks = [block.partition("```")[0] for block in page.split("```py\n")[1:]]
    assert len(blocks) == 8
    assert blocks[0] in example and blocks[1] in example
    command, other = (block.partition("```")[0].strip() for block in page.split("```sh\n")[1:])
    assert command in example
    sharded = (launch.ROOT / "examples/sharded_parameters.py").read_text()
    assert blocks[5] in sharded and other in sharded
