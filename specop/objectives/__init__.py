"""For those who write an adapter: what a framework provides for one batch."""

from specop.objectives.autodiff import HESSIAN, LIKELIHOODS, Autodiff, Linearization, Matrix, Same

__all__ = ["HESSIAN", "LIKELIHOODS", "Autodiff", "Linearization", "Matrix", "Same"]
