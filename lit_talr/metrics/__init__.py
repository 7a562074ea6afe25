"""How the responses to a domain's prompts are scored, one metric per file."""

from lit_talr.metrics.base import DomainMetric
from lit_talr.metrics.classes import ClassScores
from lit_talr.metrics.exact_match import ExactMatch
from lit_talr.metrics.math_match import MathMatch
from lit_talr.metrics.medcalc import MedCalcAccuracy
from lit_talr.metrics.numeric_match import NumericMatch
from lit_talr.metrics.within_limits import WithinLimits

__all__ = ["ClassScores", "DomainMetric", "ExactMatch", "MathMatch", "MedCalcAccuracy", "NumericMatch", "WithinLimits"]
