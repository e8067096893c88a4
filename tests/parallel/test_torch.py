"""Two processes of torch.distributed, joined by gloo: each check is run by both at the same time."""

import os
import subprocess
import sys

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
    "torch_trained",
)
FOUR = ("torch_meshes",)
FOUR_MORE = ("torch_meshes_whole",)
DYING = ("torch_dying",)
SLOW = ("torch_slow",)


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    launch.needs("torch")
    return launch.outcomes(tmp_path_factory, "torch_forked", 2, TWO + DYING, forked=True)


@pytest.mark.parametrize(("module", "name"), launch.checks_of(*TWO))
def test_two_processes(two, module, name):
    launch.report(two, module, name)


@pytest.fixture(scope="session")
def two_that_take_long(tmp_path_factory):
    launch.needs("torch")
    return launch.outcomes(tmp_path_factory, "torch_group", 2, SLOW)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), launch.checks_of(*SLOW))
def test_two_processes_that_take_long(two_that_take_long, module, name):
    launch.report(two_that_take_long, module, name)


@pytest.fixture(scope="session")
def four(tmp_path_factory):
    launch.needs("torch")
    return launch.outcomes(tmp_path_factory, "torch_forked", 4, FOUR, forked=True)


@pytest.mark.parametrize(("module", "name"), launch.checks_of(*FOUR))
def test_four_processes_of_a_mesh(four, module, name):
    launch.report(four, module, name)


@pytest.fixture(scope="session")
def four_more(tmp_path_factory):
    launch.needs("torch")
    return launch.outcomes(tmp_path_factory, "torch_forked", 4, FOUR_MORE, forked=True)


@pytest.mark.repetition
@pytest.mark.parametrize(("module", "name"), launch.checks_of(*FOUR_MORE))
def test_four_processes_of_a_mesh_and_more(four_more, module, name):
    launch.report(four_more, module, name)


@pytest.mark.parametrize(("module", "name"), launch.checks_of(*DYING))
def test_a_process_that_dies_is_noticed_by_the_other_one(two, module, name):
    first, second = two[f"{module}.{name}"]
    assert first is None and second.endswith("\ndies\n"), (first, second)


def test_every_method_of_an_objective_is_known_or_refused():
    from specop.objectives.parallel import ParallelObjective

    inherited = {name for name in dir(specop.Objective) if not name.startswith("_")} - set(vars(ParallelObjective))
    # These are made of the others.
    assert inherited == {"matrix", "solve", "gradient_covariance", "plan", "inverse_fisher"}


@pytest.mark.repetition
def test_the_example_under_torchrun(tmp_path):
    """As a user starts it; what it prints is looked at in `torch_trained`."""
    launch.needs("torch")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": launch.PATHS}
    ran = subprocess.run(
        [*command, launch.ROOT / "examples/ddp_torch.py", "--steps=5"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    first, *_, last = ran.stdout.splitlines()
    assert first.startswith("2 processes, 301 samples, loss ") and last.endswith("converged: True")


def test_the_page_shows_the_example():
    page, example = ((launch.ROOT / path).read_text() for path in ("docs/parallel.md", "examples/ddp_torch.py"))
    page = page.partition("## torch")[2].partition("\n## JAX")[0]
    blocks = [block.partition("```")[0] for block in page.split("```py\n")[1:]]
    assert len(blocks) == 9
    assert blocks[0] in example and blocks[1] in example
    command, other = (block.partition("```")[0].strip() for block in page.split("```sh\n")[1:])
    assert command in example
    sharded = (launch.ROOT / "examples/sharded_parameters.py").read_text()
    assert blocks[5] in sharded and other in sharded
