"""JAX adapter: vectors are one-dimensional jax arrays on the parameters' device, or spread as these are."""

import jax

from specop_jax.arrays import JaxBackend, backend
from specop_jax.autodiff import make_autodiff
from specop_jax.optimizers import update_rule
from specop_jax.spread import SpreadArray
from specop_jax.spread_backend import backend_for

__all__ = ["JaxBackend", "SpreadArray", "backend", "backend_for", "make_autodiff", "processes", "update_rule"]


def processes() -> int:
    """Return the number of processes in the group of jax.distributed."""
    return jax.process_count()
