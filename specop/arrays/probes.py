"""Random vectors that are the same in every framework, and on every device.

Entries come in blocks of 65,536. Block b of probe i under a seed is Philox with key (seed, i) and a counter that
starts at b, so any block can be drawn on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Array, Backend, lengths_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats

__all__ = [
    "BESIDE_KNOWN",
    "check_seed",
    "normal",
    "rademacher",
    "sample_normals",
    "sample_signs",
    "sample_uniforms",
    "sphere",
]

BESIDE_KNOWN = 1 << 31
"""Index of the first random vector beside known eigenvectors, which the seed's first ones may have led to.

What such a vector has along the copies of an eigenvalue lies in the one eigenvector that was found of it: beside that
it has nothing along them, and they would be missed without a sign.
"""

_BLOCK = 65_536
# The third counter word tells the kinds of probe apart, so that a start vector is independent of a trace probe
# with the same seed and index. The lowest word counts inside a block.
_RADEMACHER, _NORMAL, _SAMPLE_UNIFORM, _SAMPLE_NORMAL, _SAMPLE_SIGN = 0, 1, 2, 3, 4


def rademacher(backend: Backend, layout: Layout, seed: int, index: int) -> Array:
    """Vector of independent signs, P(+1) = P(-1) = 1/2."""
    return backend.from_host(_draw(layout, seed, index, _RADEMACHER, _signs, 64), layout)


def normal(backend: Backend, layout: Layout, seed: int, index: int) -> Array:
    """Vector of independent standard normal entries."""
    return backend.from_host(_draw(layout, seed, index, _NORMAL, _box_muller, 2), layout)


def sphere(backend: Backend, layout: Layout, seed: int, index: int) -> Array:
    """Vector distributed uniformly on the sphere of radius sqrt(n)."""
    vector = normal(backend, layout, seed, index)
    (length,) = lengths_of(backend, vector)
    return backend.scale_(vector, float(np.sqrt(layout.n) / length))


def sample_uniforms(seed: int, index: int, samples: range, count: int) -> Floats:
    """Return `count` numbers from [0, 1) for each data sample: the same for a sample in whatever batch it comes."""
    words = _words_of_samples(seed, index, samples, count, _SAMPLE_UNIFORM)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_normals(seed: int, index: int, samples: range, count: int) -> Floats:
    """Return `count` standard normal numbers for each data sample."""
    words = _words_of_samples(seed, index, samples, -(-count // 2), _SAMPLE_NORMAL)
    return _box_muller(words.reshape(-1)).reshape(len(samples), -1)[:, :count]


def sample_signs(seed: int, index: int, samples: range, count: int) -> NDArray[np.int8]:
    """Return `count` independent signs for each data sample, a byte each: outputs may be many."""
    words = _words_of_samples(seed, index, samples, -(-count // 64), _SAMPLE_SIGN)
    bits = np.unpackbits(words.astype("<u8", copy=False).view(np.uint8), bitorder="little")
    return (2 * bits.view(np.int8) - 1).reshape(len(samples), -1)[:, :count]


def check_seed(seed: int) -> int:
    """Return the seed as an int that fits a Philox key word, or raise InvalidInputError."""
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise InvalidInputError(f"seed must be an integer from 0 to 2**64 - 1, got {seed!r}.")
    return int(seed)


def _draw(
    layout: Layout,
    seed: int,
    index: int,
    kind: int,
    entries_of: Callable[[NDArray[np.uint64]], Floats],
    entries_of_word: int,
) -> NDArray[Any]:
    out = np.empty(layout.n, dtype=layout.dtype)
    for number, start in enumerate(range(0, layout.n, _BLOCK)):
        count = min(_BLOCK, layout.n - start)
        words = _words(seed, index, number, kind, -(-count // entries_of_word))
        out[start : start + count] = entries_of(words)[:count]
    return out


def _signs(words: NDArray[np.uint64]) -> Floats:
    bits = np.unpackbits(words.astype("<u8", copy=False).view(np.uint8), bitorder="little")
    return np.where(bits, 1.0, -1.0)


def _box_muller(words: NDArray[np.uint64]) -> Floats:
    # Box-Muller, because it uses exactly one word for two entries: NumPy's ziggurat draws a varying number of them,
    # so its stream cannot be entered in the middle. Half a word is enough for an angle, and a sine in single precision
    # takes a tenth of the time.
    words = words.astype("<u8", copy=False)
    halves = words.view("<u4").reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log((halves[:, 0] + 0.5) * 2.0**-32))
    angle = halves[:, 1].astype(np.float32) * np.float32(2.0 * np.pi * 2.0**-32)
    pairs = np.empty((len(words), 2))
    np.multiply(radius, np.cos(angle), out=pairs[:, 0])
    np.multiply(radius, np.sin(angle), out=pairs[:, 1])
    return pairs.reshape(-1)


def _words_of_samples(seed: int, index: int, samples: range, count: int, kind: int) -> NDArray[np.uint64]:
    # Sample i has the words from i * count on, in a stream of its own for each count: samples of different length
    # share no word either. A step of the counter gives four.
    start, skip = divmod(samples.start * count, 4)
    words = _words(seed, index, count, kind, skip + len(samples) * count, start)
    return words[skip:].reshape(len(samples), count)


def _words(seed: int, index: int, number: int, kind: int, count: int, start: int = 0) -> NDArray[np.uint64]:
    # An array, because NumPy reads a list with an entry above 2**63 as floating point.
    key = np.array([seed, index], dtype=np.uint64)
    generator = np.random.Philox(counter=[start, number, kind, 0], key=key)
    return np.asarray(generator.random_raw(count), dtype=np.uint64)
