"""JAX adapter: vectors are one-dimensional jax arrays on the parameters' device."""

from specop_jax.arrays import JaxBackend, backend
from specop_jax.autodiff import make_autodiff

__all__ = ["JaxBackend", "backend", "make_autodiff"]
