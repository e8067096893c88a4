"""Calls that two processes make with one operator, and each in another way."""

import specop


def different_calls(H, rank):
    """Calls of which each is another one in process 0 and in process 1, and what is to be told of them."""
    return [
        (lambda: (specop.eigsh, specop.trace)[rank](H), "eigsh and trace"),
        (lambda: specop.eigsh(H, k=2 + rank), "eigsh(k=2) and eigsh(k=3)"),
        (lambda: specop.trace(H, seed=rank), "trace(seed=0) and trace(seed=1)"),
        (lambda: specop.eigsh(H, k=2, callback=(None, print)[rank]), "eigsh(callback=None) and eigsh(callback=...)"),
    ]
