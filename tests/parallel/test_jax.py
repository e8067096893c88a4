"""Four devices of one process, and two processes of two: each check runs there, one start for all of them."""

import pytest

from parallel import jax_group

pytestmark = pytest.mark.jax


@pytest.fixture(scope="session")
def four(tmp_path_factory):
    pytest.importorskip("jax")
    return jax_group.outcomes(tmp_path_factory, "jax_devices", 4)


@pytest.mark.parametrize("name", jax_group.checks_of("jax_devices"))
def test_four_devices(four, name):
    jax_group.report(four, name)


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    pytest.importorskip("jax")
    return jax_group.outcomes(tmp_path_factory, "jax_processes", 2, processes=2)


@pytest.mark.parametrize("name", jax_group.checks_of("jax_processes"))
def test_two_processes(two, name):
    jax_group.report(two, name)
