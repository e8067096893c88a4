"""Spectral algorithms: they see a LinearOperator and its Backend, nothing else."""

from specop.spectral.applied import apply_function
from specop.spectral.diagonals import diagonal
from specop.spectral.estimators import trace
from specop.spectral.frobenius import frobenius_norm
from specop.spectral.lanczos import EigshState, eigsh
from specop.spectral.norms import condition_number, spectral_norm
from specop.spectral.power import power_iteration
from specop.spectral.quadrature import spectral_density
from specop.spectral.ranks import rank
from specop.spectral.sums import effective_dimension, logdet, trace_function

__all__ = [
    "EigshState",
    "apply_function",
    "condition_number",
    "diagonal",
    "effective_dimension",
    "eigsh",
    "frobenius_norm",
    "logdet",
    "power_iteration",
    "rank",
    "spectral_density",
    "spectral_norm",
    "trace",
    "trace_function",
]
