"""For those who write an adapter: the protocol of an array framework, layouts and rows."""

from specop.arrays.backend import Array, Backend, Basis, backend_of, framework_adapter, unpacked
from specop.arrays.layout import Layout
from specop.arrays.rows import RowBlocks

__all__ = ["Array", "Backend", "Basis", "Layout", "RowBlocks", "backend_of", "framework_adapter", "unpacked"]
