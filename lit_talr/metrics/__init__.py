"""How the responses to a domain's prompts are scored, one metric per file."""

from lit_talr.metrics.base import DomainMetric
from lit_talr.metrics.by_group import ByGroup
from lit_talr.metrics.choice import Choice
from lit_talr.metrics.classes import ClassScores
from lit_talr.metrics.contains import Contains
from lit_talr.metrics.exact_match import ExactMatch
from lit_talr.metrics.f1 import F1
from lit_talr.metrics.math_answer import MathAnswer
from lit_talr.metrics.math_match import MathMatch
from lit_talr.metrics.medcalc import MedCalcAccuracy
from lit_talr.metrics.numeric_match import NumericMatch
from lit_talr.metrics.within_limits import WithinLimits

__all__ = [
    "F1",
    "ByGroup",
    "Choice",
    "ClassScores",
    "Contains",
    "DomainMetric",
    "ExactMatch",
    "MathAnswer",
    "MathMatch",
    "MedCalcAccuracy",
    "NumericMatch",
    "WithinLimits",
]
