"""Domains: where examples come from and how their responses are scored; one LightningDataModule per file."""

from lit_talr.domains.base import DomainDataModule, Replay
from lit_talr.domains.esci import ESCI
from lit_talr.domains.gsm8k import GSM8K
from lit_talr.domains.medcalc import MedCalc
from lit_talr.domains.metamath import MetaMathQA
from lit_talr.domains.records import Records

__all__ = ["ESCI", "GSM8K", "DomainDataModule", "MedCalc", "MetaMathQA", "Records", "Replay"]
