"""What is checkpointed runs again in a backward pass, by the operations that it ran by at first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch.utils import checkpoint

__all__ = ["recomputing_under"]


@contextmanager
def recomputing_under(make_mode: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Run again under a mode of its own what is checkpointed in here.

    Torch leaves modes while it differentiates. Layers that a mode replaces would be torch's own then, which save other
    tensors.
    """
    frame: Any = checkpoint._CheckpointFrame

    class Frame(frame):  # type: ignore[misc]
        def __init__(self, recompute: Callable[..., None], *facts: Any) -> None:
            def again(*arguments: Any) -> None:
                with make_mode():
                    recompute(*arguments)

            super().__init__(again, *facts)

    checkpoint._CheckpointFrame = Frame  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        checkpoint._CheckpointFrame = frame  # type: ignore[misc]
