"""What it costs to change a weight: the objective of encoders, and what is computed from statistics once."""

from .hessian import FactoredHessian
from .loss import row_errors, weighted_error
from .metric import PLAIN, Metric
from .problem import Placed, Problem

__all__ = ["PLAIN", "FactoredHessian", "Metric", "Placed", "Problem", "row_errors", "weighted_error"]
