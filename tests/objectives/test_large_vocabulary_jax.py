"""What products in JAX hold and compile where outputs are many: arrays as large as the logits, and nothing twice."""

import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp

from specop_jax.likelihoods import FUNCTIONS

ROWS, CLASSES = 8, 5000


def test_points_that_show_a_likelihood_are_left_to_the_program():
    """Not computed by the compiler, on its one thread: of a large vocabulary that took ten seconds."""
    for make in (FUNCTIONS.steps, FUNCTIONS.zeros):
        text = jax.jit(lambda: jnp.sin(make(jnp.zeros((ROWS, CLASSES))))).lower().compile().as_text()  # noqa: B023
        assert "sine" in text
