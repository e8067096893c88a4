"""specop adapter for minicupy: what the entry point names, and what `specop.arrays.framework_adapter` returns."""

from specop_minicupy.arrays import backend
from specop_minicupy.autodiff import make_autodiff

__all__ = ["backend", "make_autodiff"]
