"""Callbacks that measure, score, stop and export a run."""

from lit_talr.callbacks.checkpoint import WholeCheckpoint
from lit_talr.callbacks.domain_score import DomainScore
from lit_talr.callbacks.drift import Drift
from lit_talr.callbacks.drift_budget import DriftBudget
from lit_talr.callbacks.general_budget import GeneralBudget
from lit_talr.callbacks.general_score import GeneralScore
from lit_talr.callbacks.hf_export import HFExport
from lit_talr.callbacks.lm_eval import LMEval
from lit_talr.callbacks.progress import TokenProgressBar
from lit_talr.callbacks.terminal import Summary
from lit_talr.callbacks.token_probability import TokenProbability
from lit_talr.callbacks.visible_update import VisibleUpdate

__all__ = [
    "DomainScore",
    "Drift",
    "DriftBudget",
    "GeneralBudget",
    "GeneralScore",
    "HFExport",
    "LMEval",
    "Summary",
    "TokenProbability",
    "TokenProgressBar",
    "VisibleUpdate",
    "WholeCheckpoint",
]
