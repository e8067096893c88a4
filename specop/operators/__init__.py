"""Linear operators: what has products, and how operators make operators."""
