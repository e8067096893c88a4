"""TorchParameters: the selected parameters of a torch model as a vector, and batches where the model is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.objectives.autodiff import Same
from specop.objectives.likelihoods import Likelihood
from specop.objectives.one_batch import OneBatch
from specop.objectives.parameters import check_trained, unchanged
from specop_torch.arrays import TorchBackend, backend, numpy_dtype, torch_dtype
from specop_torch.checksums import checksums, content
from specop_torch.evaluation import Evaluation
from specop_torch.memory import free_memory, is_out_of_memory, is_unwatched
from specop_torch.models import Model, ModuleModel
from specop_torch.structures import TREES, normal, parts
from specop_torch.wide import wide, widened

__all__ = ["TorchParameters"]


class TorchParameters(OneBatch):
    """The vector of a model's selected parameters, batches on their devices, and what both are watched by.

    Attributes
    ----------
    sharing : int
        How many processes ask at the same time for what is free on the device, each for its own.
    """

    backend: TorchBackend = backend
    sharing = 1
    trees = TREES
    output_axis = 0
    witness_samples = 4
    # Long sequences over a large vocabulary.
    witness_bytes: float = 1 << 24
    is_out_of_memory = staticmethod(is_out_of_memory)

    def __init__(
        self,
        model: Model,
        selected: Mapping[str, Tensor],
        likelihood: str | None,
        fixed_randomness: int | None,
    ) -> None:
        sparse = [name for name, tensor in selected.items() if tensor.layout is not torch.strided]
        if sparse:
            raise InvalidInputError(
                f"the parameter {sparse[0]!r} is sparse, and so would be its gradient. Hold its values in a dense "
                f"parameter, and make the sparse tensor of them in the forward pass; or leave it out by select=."
            )
        self.device = _largest(selected.values())
        self.dtype = max((numpy_dtype(tensor.dtype) for tensor in selected.values()), key=lambda kind: kind.itemsize)
        super().__init__(
            model, selected, likelihood, fixed_randomness, lambda size: Layout(size, self.dtype, self.device)
        )
        self.devices = tuple(dict.fromkeys(tensor.device for tensor in [*selected.values(), *model.state()]))
        # What a module is called with is where its first parameter is: those that are selected may come later.
        first = next(iter(model.parameters().values() if isinstance(model, ModuleModel) else selected.values()))
        self._entry = first.device
        self._evaluation = Evaluation(model, self.devices, fixed_randomness)
        self._trained = model.trained()
        self._seen_through = False
        self._compared = False
        self._reading: tuple[int, Likelihood] | None = None
        self._differentiates = False
        self._inside = 0.0

    @property
    def precision(self) -> float:
        """Rounding error of products: of the least exact dtype in use, of autocast or TF32 where these are on."""
        rounding = max(self._inside, *(torch.finfo(tensor.dtype).eps for tensor in self.parameters.values()))
        autocast = self._autocast()
        if autocast is not None and rounding > 1e-10:
            rounding = max(rounding, torch.finfo(autocast).eps)
        allowed = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        tf32 = allowed and any(device.type == "cuda" for device in self.devices)
        return max(rounding, 2.0**-11) if tf32 and rounding > 1e-10 else rounding

    def fingerprint(self, *, fixed: bool = False) -> tuple[Any, ...]:
        """Return a checksum of everything the loss depends on besides the data, and theta if that is fixed."""
        replaced = set(self.names) if fixed else set()
        # Inside autocast the same model is another function.
        modes = (*self.model.modes(), self._autocast(), *map(Same, self.model.all_layers()))
        return (*modes, *checksums(tensor for name, tensor in self.model.named_state() if name not in replaced))

    def named_checksums(self) -> dict[str, tuple[int, ...]]:
        """Return checksums of parameters and buffers."""
        return {name: checksums([tensor]) for name, tensor in self.model.named_state()}

    def free_memory(self) -> int:
        """Return the bytes that are free on the parameters' device; of several, on the one that has least."""
        return min(map(free_memory, self.devices)) // self.sharing

    def preserved(self) -> contextlib.AbstractContextManager[None]:
        """Put torch's random state back on leaving."""
        return self._evaluation.preserved()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold the model in evaluation mode, unless its randomness is fixed, and outside of the caller's autocast."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(super().evaluating())
            for kind in self._autocasting():
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield

    # Batches
    def prepare(self, batch: Any) -> Any:
        """Return the batch where the model's first parameter is; what is there already is not copied."""
        with torch.inference_mode(False):
            return TREES.map(lambda tensor: normal(tensor.to(self._entry, non_blocking=True)), batch)

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that the batch's arrays take."""
        return sum(part.numel() * part.element_size() for leaf in TREES.arrays(batch) for part in parts(leaf))

    def batch_versions(self, batch: Any) -> tuple[Any, ...]:
        """Return what changes with the batch's tensors: checksums, of watched ones elsewhere version counters."""
        return tuple(
            content(leaf) if leaf.is_cpu or is_unwatched(leaf) else (Same(leaf), leaf._version)
            for leaf in TREES.arrays(batch)
        )

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]:
        """Return a checksum of the batch's arrays."""
        return checksums(TREES.arrays(batch))

    def _constant_entries(self) -> Iterator[tuple[str, int, int]]:
        """Yield frozen parameters, and the padding rows of embeddings."""
        rows = self.model.padding_rows()
        for name, tensor in self.parameters.items():
            if name in self.model.constants:
                yield name, 0, tensor.numel()
            elif name in rows:
                yield name, rows[name] * tensor.shape[1], (rows[name] + 1) * tensor.shape[1]

    @contextlib.contextmanager
    def _widened(self, batch: Any) -> Iterator[Any]:
        selected = {name: wide(tensor) for name, tensor in self.parameters.items()}
        yield type(self)(widened(self.model), selected, self.likelihood, None), TREES.map(wide, batch)

    def _state(self) -> list[Tensor]:
        return self.model.state()

    def _leaves(self, theta: Tensor | None, *, requires_grad: bool) -> dict[str, Tensor]:
        values = self._current() if theta is None else self._operands(theta)
        constant = self.model.constants
        return {
            name: value.requires_grad_() if requires_grad and name not in constant else value
            for name, value in zip(self.names, [normal(value.detach()) for value in values], strict=True)
        }

    def _current(self) -> list[Tensor]:
        check_trained(self.names, self._trained, self.model.trained())
        return unchanged(
            self.parameters, dict(self.model.named_state()), lambda one: (tuple(one.shape), one.dtype, one.device)
        )

    def _autocast(self) -> torch.dtype | None:
        """Return the dtype that products of matrices run in, if the caller has switched that on."""
        return next((torch.get_autocast_dtype(kind) for kind in self._autocasting()), None)

    def _autocasting(self) -> list[str]:
        """Return the kinds of the model's devices on which the caller has switched autocast on."""
        kinds = dict.fromkeys(device.type for device in self.devices)
        return [kind for kind in kinds if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)]

    def _operands(self, vector: Tensor) -> list[Tensor]:
        """Return a vector as tensors like the leaves."""
        return self._split(vector)

    def _split(self, vector: Tensor) -> list[Tensor]:
        return [
            piece.view(tensor.shape).to(tensor.device, tensor.dtype)
            for piece, tensor in zip(vector.split(self.sizes), self.parameters.values(), strict=True)
        ]

    def _join(self, parts: Sequence[Tensor | None], rows: tuple[int, ...] = ()) -> Tensor:
        dtype = torch_dtype(self.dtype)
        flat = [
            torch.zeros(*rows, size, dtype=dtype, device=self.device)
            if part is None
            else part.detach().reshape(*rows, -1).to(self.device, dtype)
            for part, size in zip(parts, self.sizes, strict=True)
        ]
        return torch.cat(flat, dim=-1)

    def _flat(self, outputs: Tensor | None, size: int) -> Tensor:
        dtype = torch_dtype(self.dtype)
        if outputs is None:
            return torch.zeros(size, dtype=dtype, device=self.device)
        # A copy: what a tape returns may be a constant of it.
        return outputs.detach().reshape(-1).to(self.device, dtype, copy=True)

    def _like(self, vector: Tensor, outputs: Tensor) -> Tensor:
        """Return a vector of the outputs' entries in their shape."""
        return vector.reshape(outputs.shape).to(outputs)


def _largest(tensors: Iterable[Tensor]) -> torch.device:
    """Return the device that holds most of the tensors' entries; the first of several."""
    held: dict[torch.device, int] = {}
    for tensor in tensors:
        held[tensor.device] = held.get(tensor.device, 0) + tensor.numel()
    return max(held, key=lambda device: held[device])
