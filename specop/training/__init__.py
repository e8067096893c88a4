"""Curvature while a model is trained."""

__all__: list[str] = []
