"""Spectral algorithms: they see a LinearOperator and its Backend, nothing else."""

from specop.spectral.diagonals import diagonal
from specop.spectral.estimators import trace
from specop.spectral.lanczos import EigshState, eigsh
from specop.spectral.norms import frobenius_norm
from specop.spectral.power import power_iteration
from specop.spectral.quadrature import spectral_density

__all__ = ["EigshState", "diagonal", "eigsh", "frobenius_norm", "power_iteration", "spectral_density", "trace"]
