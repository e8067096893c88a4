"""What the shape of the loss means for training: minima and their sharpness, stable rates, noise, ranks."""

from specop.landscape._blocks import blocks
from specop.landscape._compare import compare
from specop.landscape._covariance import covariance
from specop.landscape._critical_point import critical_point
from specop.landscape._flatness import flatness
from specop.landscape._hessian_spread import hessian_spread
from specop.landscape._learning_coefficient import learning_coefficient
from specop.landscape._noise import noise
from specop.landscape._outliers import outliers
from specop.landscape._slices import slices
from specop.landscape._stability import stability

__all__ = [
    "blocks",
    "compare",
    "covariance",
    "critical_point",
    "flatness",
    "hessian_spread",
    "learning_coefficient",
    "noise",
    "outliers",
    "slices",
    "stability",
]
