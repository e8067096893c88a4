"""Checksums that tell whether arrays have changed: checksum of one on the host, weights for those on a device.

The watch reads bits, because what is written through ``.data`` or a NumPy view moves no counter and no address.
"""

from __future__ import annotations

import functools
import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORDS", "checksum", "weights"]

WORDS = 1 << 18
"""Largest number of words that `weights` are made for; longer arrays are summed up in chunks."""


def checksum(array: NDArray[np.generic]) -> int:
    """Return the CRC-32 of an array's bytes: of the order of its entries too, at 4 GB/s."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


@functools.cache
def weights() -> NDArray[np.int64]:
    """Return what words of 32 bits or less are multiplied by, modulo 2**64, before they are added up.

    They are odd, so that a change of one word always changes the sum, and random: with weights that grow evenly, sums
    do not see a change that is symmetric about its middle. Words of 64 bits must be taken as two: an even number of
    changed signs, all at the highest bit, would add up to nothing.
    """
    drawn = np.random.Generator(np.random.Philox(0)).integers(-(2**62), 2**62, WORDS)
    return 2 * drawn + 1
