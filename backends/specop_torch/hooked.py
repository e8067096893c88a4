"""HookedAutodiff: loss and gradient of a model that is run inside of fully_shard's hooks, and nothing beyond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from specop.errors import InvalidInputError
from specop.objectives.refusals import changing_loss, untrained_gradient
from specop_torch.fully_sharded import FullyShardedAutodiff
from specop_torch.graph import coarsest
from specop_torch.hooked_modules import HookedModule

__all__ = ["HookedAutodiff"]


class HookedAutodiff(FullyShardedAutodiff):
    """Each process has a part of the parameters and a part of each batch, and the hooks bring them together.

    The hooks hide the parameters from second derivatives: there is `finite_difference_hessian`.
    """

    model: HookedModule  # type: ignore[assignment]

    def gradient(self, theta: Tensor | None, batch: Any) -> tuple[Tensor, Tensor]:
        loss, parts = self._parts_of_gradient(theta, batch)
        if not self.group.any(any(part is not None for part in parts)):
            raise self._independent()
        return self.group.readers.total(loss.detach()), self._join(parts)

    def _parts_of_gradient(self, theta: Tensor | None, batch: Any) -> tuple[Tensor, list[Tensor | None]]:
        with self.group.together(), self._evaluation.running(twice_differentiable=False), torch.enable_grad():
            loss, found = self.model.slope(self._values(theta), lambda: self._part_of_loss(batch))
        return loss, [found[name] for name in self.names]

    def linearize(self, theta: Any, batch: Any, vector: Any, matrix: Any) -> NoReturn:
        raise self._hidden(matrix.kind)

    def product(self, theta: Any, batch: Any, vector: Any, matrix: Any) -> NoReturn:
        raise self._hidden(matrix.kind)

    def output_gradient(self, theta: Any, batch: Any, shift: Any) -> NoReturn:
        raise self._hidden("gradient in the outputs")

    def sample_gradients(self, theta: Any, batch: Any) -> NoReturn:
        raise self._hidden("gradient of single samples")

    def importance(self, theta: Any, batch: Any) -> NoReturn:
        raise self._hidden("importance of single samples")

    def outputs(self, theta: Any, batch: Any) -> NoReturn:
        raise self._hidden("Jacobian")

    def check_trained(self, theta: Tensor | None, batch: Any, changed: Callable[[], list[str]]) -> None:
        self._check_parts(batch)
        loss, gradient = self.gradient(theta, batch)
        one, other = float(loss), float(self.loss(theta, batch))
        if abs(one - other) > min(100.0 * self.precision, 0.03) * max(abs(one), abs(other)):
            raise changing_loss(one, other, changed())
        if self.group.readers.count < self.group.count:
            self._compare_gradients(self._parts_of_gradient(theta, batch)[1])
        self._check_additive(theta, batch)
        self._check_slope(theta, batch, gradient, one)

    def _check_slope(self, theta: Tensor | None, batch: Any, gradient: Any, loss: float) -> None:
        """Raise unless the loss rises along the gradient as that says: hooks may scale it, or add to it."""
        backend = self.backend
        point: Any = self.point() if theta is None else theta
        length, size = (float(backend.norm(one)) for one in (gradient, point))
        if length == 0:
            return
        step = 2.0 * self.precision ** (1 / 3) * (size or 1.0)
        ahead, behind = (
            float(self.loss(backend.axpy_(backend.copy(point), sign * step / length, gradient), batch))
            for sign in (1.0, -1.0)
        )
        slope = (ahead - behind) / (2.0 * step)
        # Along the slope third derivatives and kinks count little; a forgotten factor is two or more.
        if abs(slope - length) > 0.25 * length + 20.0 * self.precision * abs(loss) / step:
            raise untrained_gradient(
                slope,
                length,
                list(self.names),
                "By differences of the loss. Remove hooks that change gradients, and what set_all_reduce_hook and "
                "set_custom_reduce_scatter have set.",
            )

    def _own_loss(self, theta: Tensor | None, batch: Any) -> Tensor:
        with self.group.together(), self._evaluation.running(twice_differentiable=False), torch.no_grad():
            found: Tensor = self.model.holding(self._values(theta), lambda: self._evaluation.loss({}, batch))
        return found

    def _part_of_loss(self, batch: Any) -> Tensor:
        loss = self._evaluation.loss({}, batch)
        if not self._seen_through:
            # In which dtypes the model computes, its graph tells.
            self._inside = max(self._inside, coarsest(loss))
            self._seen_through = True
        return loss

    def _values(self, theta: Any) -> dict[str, Tensor]:
        return {} if theta is None else dict(zip(self.names, self._parts(theta), strict=True))

    def _hidden(self, what: str) -> InvalidInputError:
        return InvalidInputError(
            f"there is no {what} here: the model is in FSDP2 (fully_shard), whose hooks hide the parameters from "
            f"second derivatives. Take objective.finite_difference_hessian(), whose precision says how exact it is; or "
            f"pass the same model without hooks, such as one built anew, with the sharded parameters: objective(model, "
            f"criterion, data, params=dict(sharded.named_parameters()), parallel=mesh)."
        )
