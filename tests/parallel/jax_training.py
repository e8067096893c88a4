"""Checks of two processes of jax.distributed that train together: what their optimizers must agree on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import specop
from parallel.jax_problems import mesh
from parallel.jax_together import RANK, everywhere, ours, told_by_all
from specop.errors import InvalidInputError

RATE = 0.02


def check_optimizers_that_differ_between_processes_are_refused():
    def refused(call, kind, *words):
        told = told_by_all(call, kind)
        assert all(word in text for word in words for text in told), told

    transformation = optax.sgd(RATE, momentum=0.9)
    # Of one setting each parameter tells another rounding.
    params = {name: ours("data", mesh("data"))[0][name] for name in ("b1", "b2")}

    def square(params, batch):
        return sum((batch.sum() * one**2).sum() for one in params.values())

    objective = specop.objective(square, params=params, data=np.ones(3))
    state = transformation.init(params)
    gradient = objective.gradient()
    other = optax.sgd(RATE * (1 + RANK), momentum=0.9)
    refused(lambda: objective.update_rule((other, state), gradient), InvalidInputError, "process 1", "rate")
    # Momenta that each process has for itself, and such as are not the same on all devices.
    alone = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), state)
    refused(lambda: objective.update_rule((transformation, alone), gradient), InvalidInputError, "alone", "state")
    uneven = jax.tree.map(lambda leaf: everywhere(np.full(leaf.shape, float(RANK)), mesh("data")), state)
    refused(lambda: objective.update_rule((transformation, uneven), gradient), InvalidInputError, "state", "process 1")
    refused(lambda: objective.update_rule((optax.adam, optax.lion)[RANK](RATE), gradient), InvalidInputError, "pair")

    def update(*arguments):
        if RANK:
            raise OSError("poison")
        return transformation.update(*arguments)

    poisoned = optax.GradientTransformation(transformation.init, update)
    refused(lambda: objective.update_rule((poisoned, state), gradient), OSError, "poison")
    assert objective.update_rule((transformation, state), gradient).name == "SGD"
