"""Four devices of one process, and two processes of two: each check runs there, one start for all of them."""

import pytest

from parallel import jax_group, launch

pytestmark = pytest.mark.jax

FOUR, TWO = ("jax_devices",), ("jax_processes", "jax_training", "jax_files")
# Of these the processes of torch show the same, and JAX compiles for as long as for all others.
FOUR_AGAIN, TWO_AGAIN = ("jax_landscape",), ("jax_trained",)
DYING = ("jax_dying",)


@pytest.fixture(scope="session")
def four(tmp_path_factory):
    launch.needs("jax")
    return jax_group.outcomes_on(tmp_path_factory, 4, FOUR)


@pytest.mark.parametrize(("module", "name"), launch.checks_of(*FOUR))
def test_four_devices(four, module, name):
    launch.report(four, module, name)


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    launch.needs("jax")
    return jax_group.outcomes_on(tmp_path_factory, 2, TWO + DYING, processes=2)


@pytest.mark.parametrize(("module", "name"), launch.checks_of(*TWO))
def test_two_processes(two, module, name):
    launch.report(two, module, name)


@pytest.fixture(scope="session")
def four_again(tmp_path_factory):
    launch.needs("jax")
    return jax_group.outcomes_on(tmp_path_factory, 4, FOUR_AGAIN)


@pytest.mark.repetition
@pytest.mark.parametrize(("module", "name"), launch.checks_of(*FOUR_AGAIN))
def test_four_devices_find_what_processes_of_torch_find(four_again, module, name):
    launch.report(four_again, module, name)


@pytest.fixture(scope="session")
def two_again(tmp_path_factory):
    launch.needs("jax")
    return jax_group.outcomes_on(tmp_path_factory, 2, TWO_AGAIN, processes=2)


@pytest.mark.repetition
@pytest.mark.parametrize(("module", "name"), launch.checks_of(*TWO_AGAIN))
def test_two_processes_find_what_those_of_torch_find(two_again, module, name):
    launch.report(two_again, module, name)


@pytest.mark.parametrize(("module", "name"), launch.checks_of(*DYING))
def test_a_process_that_hangs_is_ended_and_says_where(two, module, name):
    first, second = two[f"{module}.{name}"]
    assert first is None and "hangs\nprocess 1 of 2 has let process 0 wait for more than 6 s" in second, (first, second)
    assert "time.sleep(60)" in second and "SPECOP_JAX_TIMEOUT" in second, second


def test_the_page_shows_the_example():
    page, example = ((launch.ROOT / path).read_text() for path in ("docs/parallel.md", "examples/distributed_jax.py"))
    page = page.partition("\n## JAX")[2].partition("\n## ")[0]
    (block,) = (block.partition("```")[0] for block in page.split("```py\n")[1:])
    assert block in example
    assert page.split("```sh\n")[2].partition("```")[0].strip() in example
