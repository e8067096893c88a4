"""Krylov spaces, and the one object that a call of an algorithm is."""
