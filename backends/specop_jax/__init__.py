"""JAX adapter: vectors are one-dimensional jax arrays on the parameters' device, or spread as these are."""

from specop_jax.arrays import JaxBackend, backend
from specop_jax.autodiff import make_autodiff
from specop_jax.finding import backend_for
from specop_jax.joined import joined
from specop_jax.optimizers import update_rule
from specop_jax.spread import SpreadArray

__all__ = ["JaxBackend", "SpreadArray", "backend", "backend_for", "joined", "make_autodiff", "update_rule"]
