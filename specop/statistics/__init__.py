"""Estimates with their errors, and measures on the real line: NumPy and SciPy only."""
