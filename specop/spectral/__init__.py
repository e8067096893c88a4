"""Spectral algorithms: they see a LinearOperator and its Backend, nothing else."""

from specop.spectral.diagonals import diagonal
from specop.spectral.estimators import trace
from specop.spectral.lanczos import eigsh
from specop.spectral.norms import frobenius_norm
from specop.spectral.quadrature import spectral_density

__all__ = ["diagonal", "eigsh", "frobenius_norm", "spectral_density", "trace"]
