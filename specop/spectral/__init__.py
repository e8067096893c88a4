"""Spectral algorithms: they see a LinearOperator and its Backend, nothing else."""

from specop.spectral.estimators import trace
from specop.spectral.lanczos import eigsh
from specop.spectral.quadrature import spectral_density

__all__ = ["eigsh", "spectral_density", "trace"]
