"""Calls that two processes make with one objective, and each in another way."""

import pytest

import specop
from specop.errors import InvalidInputError


def different_calls(objective, H, rank):
    """Calls of which each is another one in process 0 and in process 1, and what is to be told of them."""
    x = objective.theta

    def refused_alone():
        if rank == 0:
            with pytest.raises(InvalidInputError, match="cannot make an operator"):
                specop.eigsh(objective)
        (objective.gradient, lambda: specop.trace(H))[rank]()

    def of_one():
        if rank == 0:
            objective.loss()
        specop.eigsh(H, k=2)

    return [
        (lambda: (specop.eigsh, specop.trace)[rank](H), "eigsh and trace"),
        (lambda: specop.eigsh(H, k=2 + rank), "eigsh(k=2) and eigsh(k=3)"),
        (lambda: specop.trace(H, seed=rank), "trace(seed=0) and trace(seed=1)"),
        (lambda: specop.eigsh(H, k=2, callback=(None, print)[rank]), "eigsh(callback=None) and eigsh(callback=...)"),
        # What computes without an algorithm.
        (lambda: (objective.gradient, objective.loss)[rank](), "gradient and loss"),
        (lambda: (lambda: H @ x, objective.gradient)[rank](), "a product with @ and gradient"),
        (lambda: (lambda: objective.unflatten(x), lambda: H @ x)[rank](), "unflatten and a product with @"),
        (of_one, "loss and eigsh"),
        # What one of them refuses before it computes anything, and what it does next.
        (lambda: specop.eigsh(H, k=(-1, 2)[rank]), "eigsh(k=-1) and eigsh(k=2)"),
        (lambda: specop.trace(H, confidence=(2.0, 0.9)[rank]), "trace(confidence=2.0) and trace(confidence=0.9)"),
        (
            lambda: specop.landscape.flatness(objective, confidence=(0.9, 2.0)[rank]),
            "flatness(confidence=0.9) and flatness(confidence=2.0)",
        ),
        (lambda: specop.analysis.prune(objective, (0.5, 2)[rank]), "prune(sparsity=0.5) and prune(sparsity=2)"),
        (lambda: specop.lissa(H, x, damping=(-1.0, 0.1)[rank]), "lissa(damping=-1.0) and lissa(damping=0.1)"),
        (lambda: objective.solve(x, damping=(0.1, -1)[rank]), "solve(damping=0.1) and solve(damping=-1)"),
        (refused_alone, "gradient and trace"),
    ]
