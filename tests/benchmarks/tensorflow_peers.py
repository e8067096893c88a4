"""Top eigenvalues in TensorFlow: this library, and SciPy on a jitted product."""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from frameworks import Method, Solve, specop_methods
from peers import TOLERANCES, Eigenvalues, scipy_eigsh
from ports import Port
from tensorflow_models import tensorflow_problem


def tensorflow_methods() -> list[Method]:
    """Return what is compared; a method's `prepare` builds everything anew, compiled functions included."""
    return [
        *specop_methods(tensorflow_problem),
        Method("scipy on reverse over reverse, XLA", lambda port: _reverse_over_reverse(port, True), TOLERANCES),
        Method("scipy on reverse over reverse", lambda port: _reverse_over_reverse(port, False), TOLERANCES),
    ]


def _reverse_over_reverse(port: Port, jit_compile: bool) -> Solve:
    task = tensorflow_problem(port)
    variables = [task.params[name] for name in sorted(task.params)]
    sizes = [int(np.prod(variable.shape)) for variable in variables]

    @tf.function(jit_compile=jit_compile)
    def product(vector: tf.Tensor) -> tf.Tensor:
        parts = [tf.reshape(part, v.shape) for part, v in zip(tf.split(vector, sizes), variables, strict=True)]
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                value = task.loss(task.params, task.batch)
            gradients = [tf.convert_to_tensor(part) for part in inner.gradient(value, variables)]
            along = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(gradients, parts, strict=True)])
        images = outer.gradient(along, variables, unconnected_gradients="zero")
        return tf.concat([tf.reshape(tf.convert_to_tensor(image), [-1]) for image in images], 0)

    def matvec(vector: NDArray[np.float32]) -> NDArray[np.float32]:
        return product(tf.constant(vector.ravel())).numpy()

    def solve(k: int, tol: float) -> tuple[Eigenvalues, int]:
        shape = (sum(sizes), sum(sizes))
        return scipy_eigsh(LinearOperator(shape, matvec=matvec, dtype=np.dtype(np.float32)), k, tol)

    return solve
