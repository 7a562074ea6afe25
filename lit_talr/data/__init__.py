"""Domains: where examples come from, how they become tokens, and how tokens become optimizer steps."""

from lit_talr.data.base import DomainDataModule
from lit_talr.data.clinic import Clinic
from lit_talr.data.esci import ESCI
from lit_talr.data.gsm8k import GSM8K
from lit_talr.data.medcalc import MedCalc
from lit_talr.data.metamath import MetaMathQA
from lit_talr.data.records import Records
from lit_talr.data.replay import Replay
from lit_talr.data.skills import Skills

__all__ = ["ESCI", "GSM8K", "Clinic", "DomainDataModule", "MedCalc", "MetaMathQA", "Records", "Replay", "Skills"]
