"""Four devices of one process: each check runs there, in one process for all of them."""

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
