"""A model, a criterion, parameters and data as one function of a vector, and its derivatives."""

from specop.objectives.definition import objective
from specop.objectives.mean_loss import Objective

__all__ = ["Objective", "objective"]
