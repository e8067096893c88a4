"""What curvature says of a trained model: which samples matter, which weights can go."""

from specop.analysis._influence import influence
from specop.analysis._leave_one_out import leave_one_out
from specop.analysis._prune import prune
from specop.analysis._retrain import retrain
from specop.analysis._saliency import saliency
from specop.analysis._validate_influence import validate_influence

__all__ = ["influence", "leave_one_out", "prune", "retrain", "saliency", "validate_influence"]
