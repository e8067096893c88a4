"""Checks of two processes of jax.distributed that train together: what an optimizer's steps see, and monitors."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import specop
from parallel.jax_problems import GRADIENT, HESSIAN, close, loss, mesh
from parallel.jax_together import RANK, everywhere, ours, same_everywhere, told_by_all
from specop.errors import InvalidInputError

FOLDER = Path(os.environ["SPECOP_GROUP"])
STEPS, RATE = 5, 0.02


def trained(transformation, kind="fsdp"):
    """A model, and an optimizer's state that has seen its gradient in five steps that did not move it."""
    params, batch = ours(kind, mesh(kind))
    objective = specop.objective(loss, params=params, data=batch)
    gradient, state = objective.unflatten(objective.gradient()), transformation.init(params)
    update = jax.jit(lambda gradient, state, params: transformation.update(gradient, state, params)[1])
    for _ in range(STEPS):
        state = update(gradient, state, params)
    return objective, params, state


def check_an_optimizer_whose_state_is_cut():
    transformation = optax.adam(optax.linear_schedule(RATE, 3 * RATE, 2 * STEPS), b1=0.8, b2=0.9)
    objective, _, state = trained(transformation)
    found = specop.landscape.stability(objective, (transformation, state), steps=0, tol=1e-6)
    # Second moments of the same gradient, corrected for their bias, are its squares.
    scale = 1.0 / np.sqrt((1 - 0.8**STEPS) * (abs(GRADIENT) + 1e-8))
    close(found.sharpness.estimate, np.linalg.eigvalsh(scale[:, None] * HESSIAN * scale)[-1], 1e-4)
    # The rate of the next step.
    close(found.limit, 2 * (1 + 0.8) / ((1 - 0.8) * 2 * RATE), 1e-4)
    assert found.optimizer == "Adam"
    same_everywhere(found.sharpness.estimate, found.limit, found.rate)


def check_monitors_of_all_processes_record_the_same():
    # A count that no program has returned yet lies on one device of each process.
    transformation = optax.sgd(optax.constant_schedule(RATE), momentum=0.9)
    objective, params, _ = trained(transformation, "data")
    path = FOLDER / "history.npz"
    monitor = specop.training.Monitor(objective, every=2, history=path)
    for step in range(1, 3):
        monitor.record(step, params=params, optimizer=(transformation, transformation.init(params)))
    history = monitor.history
    assert history.steps.tolist() == [1]
    close(history["limit"], [2 * 1.9 / RATE], 1e-6)
    close(history["sharpness"], [np.linalg.eigvalsh(HESSIAN)[-1]], 1e-3)
    same_everywhere(history.values, history.errors)
    assert np.array_equal(specop.load(path).values, history.values)


def check_optimizers_that_differ_between_processes_are_refused():
    def refused(call, kind, *words):
        told = told_by_all(call, kind)
        assert all(word in text for word in words for text in told), told

    transformation = optax.sgd(RATE, momentum=0.9)
    objective, _, state = trained(transformation, "data")
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
