"""Check on this machine that vectors stay on the device, and how fast products are.

Runs torch and JAX, whichever is installed, on a GPU where there is one and else on the CPU:

    python examples/gpu_check.py

For each framework: eigsh, trace and spectral density of the Hessian of a network with a million parameters. Every
transfer to the host is watched; one with as many entries as a vector has ends the script with an error. Then products
per second, the share of time outside of products, and peak memory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

import specop

WIDTHS = (784, 1024, 256, 10)
SAMPLES = 1024


@dataclass
class Device:
    """What one framework offers here."""

    name: str
    objective: specop.Objective
    wait_for: Callable[[Any], Any]
    peak_memory: Callable[[], float]
    watched: Callable[[Transfers], contextlib.AbstractContextManager[None]]


@dataclass
class Transfers:
    """Sizes of what went to the host."""

    limit: int
    sizes: list[int] = field(default_factory=list)

    def note(self, size: int) -> None:
        """Record a transfer; raise if it may hold a vector."""
        self.sizes.append(size)
        if size >= self.limit:
            raise AssertionError(f"{size} entries were copied to the host at once; a vector has {self.limit}.")


def main() -> None:
    """Check every framework that is installed."""
    makers = {"torch": torch_device, "jax": jax_device}
    found = [name for name in makers if importlib.util.find_spec(name)]
    if not found:
        sys.exit("neither torch nor jax is installed: pip install specop[torch] or specop[jax].")
    for name in found:
        check(makers[name]())


def check(device: Device) -> None:
    """Run the three methods and print what they cost."""
    objective = device.objective
    print(f"\n{device.name}: n = {objective.n:,}, {SAMPLES:,} samples")
    hessian = objective.hessian()
    methods: dict[str, Callable[[Any], Any]] = {
        "eigsh": lambda A: specop.eigsh(A, k=5),
        "trace": lambda A: specop.trace(A, max_matvecs=32),
        "density": lambda A: specop.spectral_density(A, steps=30, probes=2),
    }
    for name, method in methods.items():
        method(hessian)  # compiles, and linearizes
        transfers = Transfers(objective.n)
        with device.watched(transfers), timed_products(hessian, device.wait_for) as seconds:
            started = time.perf_counter()
            result = method(hessian)
            total = time.perf_counter() - started
        rate, outside = len(seconds) / sum(seconds), 100 * (1 - sum(seconds) / total)
        print(
            f"  {name:8s} {result.matvecs:4d} products in {total:7.3f} s: {rate:8.1f} products/s, {outside:4.1f} % of "
            f"the time outside of them; {len(transfers.sizes)} transfers to the host, the largest of "
            f"{max(transfers.sizes)} numbers"
        )
    print(f"  peak memory {device.peak_memory():,.0f} MB")


@contextlib.contextmanager
def timed_products(operator: specop.LinearOperator, wait_for: Callable[[Any], Any]) -> Iterator[list[float]]:
    """Time each product, from when its operand is there to when its result is."""
    seconds: list[float] = []
    product = operator._matvec

    def timed(vector: Any) -> Any:
        wait_for(vector)
        started = time.perf_counter()
        image = product(vector)
        wait_for(image)
        seconds.append(time.perf_counter() - started)
        return image

    with mock.patch.object(operator, "_matvec", timed):
        yield seconds


@contextlib.contextmanager
def counted_exchange(backend: Any, transfers: Transfers, allowed: Callable[[], Any]) -> Iterator[None]:
    """Count what the backend itself brings to the host, the only transfers there may be."""
    to_host, to_numpy = backend.to_host, backend.to_numpy

    def counted(*arrays: Any) -> Any:
        with allowed():
            found = to_host(*arrays)
        transfers.note(sum(int(np.size(array)) for array in found))
        return found

    def counted_copy(array: Any) -> Any:
        with allowed():
            found = to_numpy(array)
        transfers.note(found.size)
        return found

    with mock.patch.object(backend, "to_host", counted), mock.patch.object(backend, "to_numpy", counted_copy):
        yield


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return inputs, labels and weights: matrices (in, out) and biases by turns."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((SAMPLES, WIDTHS[0])).astype(np.float32)
    labels = rng.integers(0, WIDTHS[-1], SAMPLES)
    weights: list[np.ndarray] = []
    for rows, columns in itertools.pairwise(WIDTHS):
        weights.append((rng.standard_normal((rows, columns)) * (2 / rows) ** 0.5).astype(np.float32))
        weights.append(np.zeros(columns, dtype=np.float32))
    return inputs, labels, weights


def torch_device() -> Device:
    """Return the problem in torch."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        # torch has no guard against transfers: look at each operation for one that ends on the host.
        def __init__(self, transfers: Transfers) -> None:
            super().__init__()
            self.transfers = transfers

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
                source = args[-1] if func is torch.ops.aten.copy_.default else args[0]
                if source.device.type != "cpu" and result.device.type == "cpu":
                    self.transfers.note(result.numel())
            return result

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs, labels, weights = data()
    params = [torch.from_numpy(weight).to(device) for weight in weights]
    batch = torch.from_numpy(inputs).to(device), torch.from_numpy(labels).to(device)

    def loss(params: list[torch.Tensor], batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        hidden, labels = batch
        for matrix, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
            hidden = torch.tanh(hidden @ matrix + bias)
        return torch.nn.functional.cross_entropy(hidden @ params[-2] + params[-1], labels)

    objective = specop.objective(loss, params=params, data=batch)
    backend = objective.hessian().backend

    @contextlib.contextmanager
    def watched(transfers: Transfers) -> Iterator[None]:
        with counted_exchange(backend, transfers, contextlib.nullcontext), Watch(transfers):
            yield

    on_gpu = device.type == "cuda"
    return Device(
        f"torch {torch.__version__} on {torch.cuda.get_device_name() if on_gpu else 'the CPU'}",
        objective,
        (lambda tensor: torch.cuda.synchronize()) if on_gpu else (lambda tensor: None),
        (lambda: torch.cuda.max_memory_allocated() / 1e6) if on_gpu else resident_peak,
        watched,
    )


def jax_device() -> Device:
    """Return the problem in JAX."""
    import jax
    import jax.numpy as jnp

    inputs, labels, weights = data()
    params = [jnp.asarray(weight) for weight in weights]

    def loss(params: list[jax.Array], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        hidden, labels = batch
        for matrix, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
            hidden = jnp.tanh(hidden @ matrix + bias)
        logits = jax.nn.log_softmax(hidden @ params[-2] + params[-1])
        return -jnp.take_along_axis(logits, labels[:, None], axis=1).mean()

    objective = specop.objective(loss, params=params, data=(jnp.asarray(inputs), jnp.asarray(labels)))
    backend = objective.hessian().backend
    (device,) = params[0].devices()

    @contextlib.contextmanager
    def watched(transfers: Transfers) -> Iterator[None]:
        # On a CPU the guard has nothing to guard: there the counts alone tell.
        allowed = lambda: jax.transfer_guard_device_to_host("allow")  # noqa: E731
        with counted_exchange(backend, transfers, allowed), jax.transfer_guard_device_to_host("disallow"):
            yield

    def peak() -> float:
        stats = device.memory_stats() or {}
        return stats.get("peak_bytes_in_use", 0) / 1e6 or resident_peak()

    return Device(
        f"jax {jax.__version__} on {device.device_kind}",
        objective,
        jax.block_until_ready,
        peak,
        watched,
    )


def resident_peak() -> float:
    """Return the peak of the process's resident memory in MB."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
