"""Four devices of one process, and two processes of two: each check runs there, one start for all of them."""

import time

import numpy as np
import pytest

import specop
from parallel import jax_group, launch

pytestmark = pytest.mark.jax

FOUR, TWO = ("jax_devices",), ("jax_processes", "jax_training", "jax_files")
# Of these the processes of torch show the same, and JAX compiles for as long as for all others.
FOUR_AGAIN, TWO_AGAIN = ("jax_landscape",), ("jax_trained",)


@pytest.fixture(scope="session")
def four(tmp_path_factory):
    pytest.importorskip("jax")
    return jax_group.outcomes_on(tmp_path_factory, 4, FOUR)


@pytest.mark.parametrize(("module", "name"), launch.checks_of(*FOUR))
def test_four_devices(four, module, name):
    launch.report(four, module, name)


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    pytest.importorskip("jax")
    return jax_group.outcomes_on(tmp_path_factory, 2, TWO, processes=2)


@pytest.mark.parametrize(("module", "name"), launch.checks_of(*TWO))
def test_two_processes(two, module, name):
    launch.report(two, module, name)


@pytest.fixture(scope="session")
def four_again(tmp_path_factory):
    pytest.importorskip("jax")
    return jax_group.outcomes_on(tmp_path_factory, 4, FOUR_AGAIN)


@pytest.mark.repetition
@pytest.mark.parametrize(("module", "name"), launch.checks_of(*FOUR_AGAIN))
def test_four_devices_find_what_processes_of_torch_find(four_again, module, name):
    launch.report(four_again, module, name)


@pytest.fixture(scope="session")
def two_again(tmp_path_factory):
    pytest.importorskip("jax")
    return jax_group.outcomes_on(tmp_path_factory, 2, TWO_AGAIN, processes=2)


@pytest.mark.repetition
@pytest.mark.parametrize(("module", "name"), launch.checks_of(*TWO_AGAIN))
def test_two_processes_find_what_those_of_torch_find(two_again, module, name):
    launch.report(two_again, module, name)


def test_a_process_that_hangs_is_ended_and_ends_the_others_and_the_run_goes_on(tmp_path):
    pytest.importorskip("jax")
    began = time.monotonic()
    first, second = jax_group.start_on(tmp_path, 2, "parallel.jax_dying", end=60, SPECOP_JAX_TIMEOUT="2")
    assert time.monotonic() - began < 60
    # It says where it hangs, and the other one that it is gone.
    assert "hangs\nprocess 1 of 2 has let process 0 wait for more than 2 s" in second, (first, second)
    assert "time.sleep(600)" in second and "SPECOP_JAX_TIMEOUT" in second, second
    assert "ProcessError: process 0 of 2 has lost the others" in first, (first, second)
    # What was saved before goes on in one process.
    matrix = np.diag(np.arange(60.0))
    found = specop.eigsh(matrix, k=2, ncv=14, tol=1e-8, checkpoint=tmp_path / "run.npz")
    assert np.allclose(found.eigenvalues, [58, 59], atol=1e-6)
    assert found.matvecs > 20


def test_the_page_shows_the_example():
    page, example = ((launch.ROOT / path).read_text() for path in ("docs/parallel.md", "examples/distributed_jax.py"))
    page = page.partition("\n## JAX")[2].partition("\n## ")[0]
    (block,) = (block.partition("```")[0] for block in page.split("```py\n")[1:])
    assert block in example
    assert page.split("```sh\n")[2].partition("```")[0].strip() in example
