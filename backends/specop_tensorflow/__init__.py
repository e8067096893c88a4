"""TensorFlow adapter: vectors are one-dimensional eager tensors on the model's device."""

import tensorflow as tf

from specop_tensorflow.arrays import TensorflowBackend, backend
from specop_tensorflow.mirrored import make_autodiff
from specop_tensorflow.optimizers import update_rule

__all__ = ["TensorflowBackend", "backend", "make_autodiff", "processes", "update_rule"]


def processes() -> int:
    """Return the number of replicas in whose scope this is called, or of the processes that TF_CONFIG names."""
    # Outside of a scope a model of MultiWorkerMirroredStrategy is like any other; its process has a part of the data.
    cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec().as_dict()
    together = sum(len(cluster.get(job, ())) for job in ("chief", "worker"))
    return max(together, int(tf.distribute.get_strategy().num_replicas_in_sync))
