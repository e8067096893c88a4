"""Random vectors that are the same in every framework, on every device and for every sharding.

Entries come in blocks of 65,536. Block b of probe i under a seed is Philox with key (seed, i) and a counter that
starts at b, so any block can be drawn on its own and a shard draws only what it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.backend import Array, Backend, Layout
from specop.errors import InvalidInputError

__all__ = ["check_seed", "normal", "rademacher", "sphere"]

_BLOCK = 65_536
# The third counter word tells the kinds of probe apart, so that a start vector is independent of a trace probe
# with the same seed and index. The lowest word counts inside a block.
_RADEMACHER, _NORMAL = 0, 1


def rademacher(backend: Backend, layout: Layout, seed: int, index: int) -> Array:
    """Vector of independent signs, P(+1) = P(-1) = 1/2."""
    return backend.from_host(_draw(layout, seed, index, _signs), layout)


def normal(backend: Backend, layout: Layout, seed: int, index: int) -> Array:
    """Vector of independent standard normal entries."""
    return backend.from_host(_draw(layout, seed, index, _normals), layout)


def sphere(backend: Backend, layout: Layout, seed: int, index: int) -> Array:
    """Vector distributed uniformly on the sphere of radius sqrt(n)."""
    vector = normal(backend, layout, seed, index)
    (length,) = backend.to_host(backend.norm(vector))
    return backend.scale_(vector, float(np.sqrt(layout.n) / length))


def check_seed(seed: int) -> int:
    """Return the seed as an int that fits a Philox key word, or raise InvalidInputError."""
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise InvalidInputError(f"seed must be an integer from 0 to 2**64 - 1, got {seed!r}.")
    return int(seed)


def _draw(
    layout: Layout, seed: int, index: int, block: Callable[[int, int, int, int], NDArray[np.float64]]
) -> NDArray[Any]:
    out = np.empty(layout.local_size, dtype=layout.dtype)
    filled = 0
    for start, stop in layout.runs:
        for number in range(start // _BLOCK, -(-stop // _BLOCK)):
            skip = max(start - number * _BLOCK, 0)
            count = min(stop - number * _BLOCK, _BLOCK)
            entries = block(seed, index, number, count)[skip:count]
            out[filled : filled + len(entries)] = entries
            filled += len(entries)
    return out


def _signs(seed: int, index: int, number: int, count: int) -> NDArray[np.float64]:
    words = _words(seed, index, number, _RADEMACHER, -(-count // 64)).astype("<u8", copy=False)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    return np.where(bits, 1.0, -1.0)


def _normals(seed: int, index: int, number: int, count: int) -> NDArray[np.float64]:
    # Box-Muller, because it uses exactly one word for two entries: NumPy's ziggurat draws a varying number of them,
    # so its stream cannot be entered in the middle. Half a word is enough for an angle, and a sine in single precision
    # takes a tenth of the time.
    words = _words(seed, index, number, _NORMAL, -(-count // 2)).astype("<u8", copy=False)
    halves = words.view("<u4").reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log((halves[:, 0] + 0.5) * 2.0**-32))
    angle = halves[:, 1].astype(np.float32) * np.float32(2.0 * np.pi * 2.0**-32)
    pairs = np.empty((len(words), 2))
    np.multiply(radius, np.cos(angle), out=pairs[:, 0])
    np.multiply(radius, np.sin(angle), out=pairs[:, 1])
    return pairs.reshape(-1)


def _words(seed: int, index: int, number: int, kind: int, count: int) -> NDArray[np.uint64]:
    # An array, because NumPy reads a list with an entry above 2**63 as floating point.
    key = np.array([seed, index], dtype=np.uint64)
    generator = np.random.Philox(counter=[0, number, kind, 0], key=key)
    return np.asarray(generator.random_raw(count), dtype=np.uint64)
