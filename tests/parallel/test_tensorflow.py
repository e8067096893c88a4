"""Models that tf.distribute has copied to several devices, in a process of their own, which has these devices."""

import pytest

from parallel import launch, tensorflow_group

pytestmark = pytest.mark.tensorflow

THREE = ("tensorflow_mirrored", "tensorflow_contexts")


@pytest.fixture(scope="session")
def three(tmp_path_factory):
    launch.needs("tensorflow")
    return tensorflow_group.outcomes_on(tmp_path_factory, 3, THREE)


@pytest.mark.parametrize(("module", "name"), launch.checks_of(*THREE))
def test_three_devices(three, module, name):
    launch.report(three, module, name)
