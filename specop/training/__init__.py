"""Curvature while a model is trained."""

from specop.training._monitor import Monitor

__all__ = ["Monitor"]
