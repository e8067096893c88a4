"""Calls that two processes make with one objective, and each in another way."""

import pytest

import specop
from specop.errors import InvalidInputError


def different_calls(objective, H, rank):
    """Calls of which each is another one in process 0 and in process 1, and what is to be told of them."""
    x = objective.theta

    def refused_alone():
        if rank == 0:
            with pytest.raises(InvalidInputError, match="confidence must lie"):
                specop.landscape.flatness(objective, confidence=2.0)
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
        (refused_alone, "gradient and trace"),
    ]
