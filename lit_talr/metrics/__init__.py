"""How a domain's answers are scored, one metric per file."""

from lit_talr.metrics.base import DomainMetric
from lit_talr.metrics.exact_match import ExactMatch
from lit_talr.metrics.medcalc import MedCalcAccuracy
from lit_talr.metrics.within_limits import WithinLimits

__all__ = ["DomainMetric", "ExactMatch", "MedCalcAccuracy", "WithinLimits"]
