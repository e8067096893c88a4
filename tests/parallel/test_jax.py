"""Four devices of one process, and two processes of two: each check runs there, one start for all of them."""

import pytest

from parallel import jax_group, launch

pytestmark = pytest.mark.jax

FOUR, TWO = ("jax_devices",), ("jax_processes",)


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
