"""Checks of two processes of jax.distributed that train together: what stability and monitors find, and the example."""

import os
from pathlib import Path

import jax
import numpy as np
import optax

import distributed_jax
import specop
from parallel.jax_problems import GRADIENT, HESSIAN, close, loss, mesh
from parallel.jax_together import RANK, ours, processes, same_everywhere

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


def check_the_example():
    before = os.getcwd()
    os.chdir(FOLDER)
    try:
        found = distributed_jax.main(RANK)
    finally:
        os.chdir(before)
    # As sharded_jax.py prints them, whose checks hold them against jax.hessian.
    assert np.allclose(found.eigenvalues, [4.3644, 4.6492, 5.2399], atol=1e-3)
    processes().exchange(None)
    assert np.array_equal(specop.load(FOLDER / "eigen.npz").eigenvalues, found.eigenvalues)
