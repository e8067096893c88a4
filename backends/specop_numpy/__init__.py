"""NumPy adapter: vectors are one-dimensional ndarrays in host memory."""

from specop_numpy.arrays import NumpyBackend, backend

__all__ = ["NumpyBackend", "backend"]
