"""The array primitives of specop on PyTorch: CPU, CUDA and, where torch has it, MPS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specop.arrays.backend import Backend, unpacked
from specop.arrays.layout import Layout
from specop.arrays.rows import RowBlocks
from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats, Integers
from specop_torch.memory import free_memory

__all__ = ["TorchBackend", "backend"]

# A CPU adds up in the vectors' own precision, and over millions of float32 entries a sum is off by up to 1e-3: chunks
# are added up in float64. A GPU adds in a tree.
_CHUNK = 16_384
# Columns of a block of rows that are held in float64 at a time.
_COLUMNS = 4_096

_TO_TORCH: dict[np.dtype[Any], torch.dtype] = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}
_TO_NUMPY = {torch_dtype: numpy_dtype for numpy_dtype, torch_dtype in _TO_TORCH.items()}


class TorchBackend(Backend):
    """`specop.arrays.Backend` for float32 and float64 tensors."""

    name = "torch"
    array_type = Tensor
    conversion = "x.to('{device}', torch.{dtype})"

    def layout(self, array: Tensor) -> Layout:
        # A DTensor is a tensor, too, and has vectors of another backend.
        spec = getattr(array, "_spec", None)
        sharding = None if spec is None else (spec.mesh, spec.placements)
        return Layout(array.shape[-1], known_dtype(array), array.device, sharding)

    def shape(self, x: Any) -> tuple[int, ...]:
        return tuple(getattr(x, "shape", ()))

    def check_vector(self, x: Any, layout: Layout, what: str) -> None:
        if isinstance(x, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(x):
            raise InvalidInputError(
                f"{what} is being traced by torch.func (vmap, grad, jacrev), which cannot look into products. Multiply "
                f"outside of it: products are linear, and of a symmetric A the gradient of v'Av is 2 A v."
            )
        super().check_vector(x, layout, what)
        if x.layout is not torch.strided:
            raise InvalidInputError(f"{what} is sparse. Pass x.to_dense().")
        if x.requires_grad and torch.is_grad_enabled():
            raise InvalidInputError(
                f"{what} requires a gradient, which does not flow through products. Pass x.detach(); of a symmetric A "
                f"the gradient of v'Av is 2 A v."
            )

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return torch.dot(x, y)
        pieces = zip(x.split(_CHUNK), y.split(_CHUNK), strict=True)
        return torch.stack([torch.dot(a, b) for a, b in pieces]).sum(dtype=torch.float64)

    def norm(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            # Squares of float32 neither vanish nor overflow in float64, which other accelerators may not have.
            return torch.linalg.vector_norm(x, dtype=torch.float64)
        if x.device.type != "cpu":
            return _norm_of_scaled(x, torch.linalg.vector_norm)
        found = _norm_in_chunks(x)
        limits = torch.finfo(x.dtype)
        if len(x) * limits.tiny / limits.eps < found**2 < torch.inf:
            return found
        return _norm_of_scaled(x, _norm_in_chunks)

    def axpy_(self, y: Tensor, alpha: float, x: Tensor) -> Tensor:
        return y.add_(x, alpha=alpha)

    def scale_(self, x: Tensor, alpha: float) -> Tensor:
        return x.mul_(alpha)

    def copy(self, x: Tensor) -> Tensor:
        return x.detach().clone(memory_format=torch.contiguous_format)

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.mul(x.detach(), y.detach())

    def clip(self, x: Tensor, low: float, high: float) -> Tensor:
        return torch.clamp(x.detach(), low, high)

    def free_memory(self, layout: Layout) -> int:
        return free_memory(layout.device)

    def zeros(self, layout: Layout) -> Tensor:
        return torch.zeros(layout.n, dtype=_TO_TORCH[layout.dtype], device=layout.device)

    def section(self, x: Tensor, start: int, stop: int) -> Tensor:
        return x[..., start:stop]

    def gather(self, x: Tensor, indices: Integers) -> Tensor:
        return torch.index_select(x, -1, torch.from_numpy(indices).to(x.device))

    def scatter(self, x: Tensor, indices: Integers, layout: Layout) -> Tensor:
        return self.zeros(layout).index_copy_(0, torch.from_numpy(indices).to(x.device), x)

    def allocate(self, layout: Layout, capacity: int, lead: int) -> RowBlocks:
        dtype = _TO_TORCH[layout.dtype]
        return RowBlocks(layout, capacity, lead, lambda *shape: torch.empty(shape, dtype=dtype, device=layout.device))

    def set_row_(self, basis: RowBlocks, i: int, x: Tensor, alpha: float) -> RowBlocks:
        basis.grow(i + 1)
        torch.mul(x.detach(), alpha, out=basis.row(i))
        return basis

    def orthogonalize_(
        self, x: Tensor, basis: RowBlocks, k: int, near: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c = [x.new_empty(0)]
        for i in near:
            row = basis.row(i)
            c.append(self.dot(row, x).to(x.dtype).reshape(1))
            x.addcmul_(row, c[-1], value=-1)
        parts = basis.parts(0, k)
        h = torch.cat([x.new_empty(0), *(_products(rows, x) for _, rows in parts)])
        for where, rows in parts:
            x.addmv_(rows.T, h[where], alpha=-1)
        return x, torch.cat(c), h, self.norm(x)

    def combine_(self, basis: RowBlocks, coefficients: Floats, start: int) -> RowBlocks:
        m, p = coefficients.shape
        dtype, device = _TO_TORCH[basis.layout.dtype], basis.layout.device
        weights = torch.from_numpy(coefficients.T.copy()).to(device=device, dtype=dtype)
        sources, targets = basis.parts(start, start + m), basis.parts(start, start + p)
        # Chunks on a GPU too: they bound the second copy that a product in place needs.
        for begin in range(0, basis.layout.n, 4 * _CHUNK):
            columns = slice(begin, begin + 4 * _CHUNK)
            chunk = weights.new_zeros(p, sources[0][1][:, columns].shape[1])
            for where, rows in sources:
                chunk.addmm_(weights[:, where], rows[:, columns])
            for where, rows in targets:
                rows[:, columns] = chunk[where]
        return basis

    def take(self, basis: RowBlocks, k: int) -> Tensor:
        return basis.blocks[0] if k == basis.lead else super().take(basis, k)

    def stack(self, rows: Sequence[Tensor]) -> Tensor:
        return torch.stack(tuple(rows))

    def index(self, matrix: Tensor, i: int) -> Tensor:
        return matrix[i].detach().contiguous()

    def apply_rows(self, matrix: Tensor, x: Tensor) -> Tensor:
        return _products(matrix.detach(), x.detach())

    def combine_rows(self, matrix: Tensor, y: Tensor) -> Tensor:
        return torch.matmul(matrix.detach().T, y.detach())

    @torch.no_grad()
    def row_products(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> Floats:
        if x[0].device.type == "cpu":
            # By NumPy, which computes one half where both are the same: torch takes twice as long.
            return super().row_products(x, y)
        total: Any = 0.0
        for begin in range(0, x[0].shape[1], _COLUMNS):
            left = _wide(x, begin)
            total += left @ (left if y is x else _wide(y, begin)).T
        return np.array(total.cpu().double().numpy())

    @torch.no_grad()
    def block_products(self, rows: Tensor, size: int) -> Floats:
        count = rows.shape[1] // size
        total = np.empty((count, size, size))
        step = max(1, _COLUMNS // size)
        for begin in range(0, count, step):
            part = rows[:, begin * size : (begin + step) * size].to(_widest(rows.device))
            part = part.reshape(len(rows), -1, size).permute(1, 2, 0)
            total[begin : begin + step] = torch.bmm(part, part.transpose(1, 2)).cpu().numpy()
        return total

    def apply_blocks(self, blocks: Tensor, x: Tensor) -> Tensor:
        return torch.bmm(blocks, x.detach().reshape(len(blocks), -1, 1)).reshape(-1)

    def cast(self, x: Tensor, dtype: np.dtype[Any]) -> Tensor:
        return x.detach().to(torch.float16 if dtype == np.float16 else _TO_TORCH[dtype], copy=True)

    def transpose(self, matrix: Tensor) -> Tensor:
        return matrix.T

    def columns(self, block: Tensor) -> list[Tensor]:
        return list(block.detach().T.contiguous())

    def to_host(self, *arrays: Tensor) -> list[Floats]:
        if len(arrays) == 1:
            return [arrays[0].detach().to("cpu", torch.float64, copy=True).numpy()]
        flat = torch.cat([array.detach().reshape(-1) for array in arrays]).cpu().double().numpy()
        return unpacked(flat, [array.shape for array in arrays])

    def from_host(self, array: NDArray[Any], layout: Layout) -> Tensor:
        return torch.tensor(array, dtype=_TO_TORCH[layout.dtype], device=layout.device)

    def to_numpy(self, x: Tensor) -> NDArray[Any]:
        return np.array(x.detach().cpu().numpy())


def _norm_in_chunks(x: Tensor) -> Tensor:
    # In one call, because it is needed at each step: a loop over chunks takes four times as long.
    whole = x.shape[0] // _CHUNK
    chunks = torch.linalg.vector_norm(x[: whole * _CHUNK].view(whole, _CHUNK), dim=1)
    rest = torch.linalg.vector_norm(x[whole * _CHUNK :])
    return torch.linalg.vector_norm(torch.cat([chunks, rest.reshape(1)]), dtype=torch.float64)


def _norm_of_scaled(x: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the norm of a vector whose squares may leave the range of its dtype, as those of 1e-25 leave float32's."""
    largest = torch.linalg.vector_norm(x, torch.inf)
    unit = torch.where((largest > 0) & (largest < torch.inf), largest, 1.0)
    return unit * norm(x / unit)


def _products(rows: Tensor, x: Tensor) -> Tensor:
    return row_sums(rows, x).to(x.dtype)


def row_sums(rows: Tensor, x: Tensor) -> Tensor:
    """Return ``rows @ x``, added up as exactly as `TorchBackend.dot`, perhaps in float64."""
    if x.device.type != "cpu" or x.shape[0] <= _CHUNK:
        return torch.mv(rows, x)
    pieces = zip(rows.split(_CHUNK, dim=1), x.split(_CHUNK), strict=True)
    return torch.stack([torch.mv(a, b) for a, b in pieces]).sum(0, dtype=torch.float64)


def _widest(device: torch.device) -> torch.dtype:
    """Return float64, in which also no GPU rounds to TF32, or float32 where there is no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _wide(blocks: Sequence[Tensor], begin: int) -> Tensor:
    """Return some columns of rows in blocks, as one tensor in which products are exact."""
    wide = _widest(blocks[0].device)
    return torch.cat([rows[:, begin : begin + _COLUMNS].to(wide) for rows in blocks])


def known_dtype(array: Tensor) -> Any:
    """Return the NumPy dtype of vectors, or torch's own where vectors have no such dtype."""
    return _TO_NUMPY.get(array.dtype, array.dtype)


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """Return the NumPy dtype of vectors for parameters of this dtype: its own, at least float32."""
    if dtype in (torch.float16, torch.bfloat16):
        return np.dtype(np.float32)
    if dtype in _TO_NUMPY:
        return _TO_NUMPY[dtype]
    raise InvalidInputError(f"vectors must be real floating point, got {dtype}.")


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Return the torch dtype of a layout's vectors."""
    return _TO_TORCH[dtype]


backend = TorchBackend()
