"""A process of TensorFlow with several devices that runs checks: ``python -m parallel.tensorflow_group MODULE ...``."""

import os
import sys

from parallel.launch import outcomes, run


def outcomes_on(tmp_path_factory, devices, modules):
    """What each check raised in a process with so many devices."""
    settings = {"SPECOP_DEVICES": str(devices), "KERAS_BACKEND": "tensorflow"}
    return outcomes(tmp_path_factory, "tensorflow_group", 1, modules, **settings)


def join():
    """Make the devices of this process."""
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    made = [tf.config.LogicalDeviceConfiguration() for _ in range(int(os.environ["SPECOP_DEVICES"]))]
    tf.config.set_logical_device_configuration(cpu, made)


if __name__ == "__main__":
    join()
    run(sys.argv[1:])
