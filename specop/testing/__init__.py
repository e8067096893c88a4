"""Checks for those who write an operator, a backend or an adapter of their own.

Each check raises AssertionError at the first law that is broken and names the primitive, the law and the numbers. They
need no test runner; ``docs/extending.md`` shows them at work.
"""

from specop.testing._backends import check_backend
from specop.testing._objectives import check_objective
from specop.testing._operators import check_operator

__all__ = ["check_backend", "check_objective", "check_operator"]
