"""The lab: a domain and general skills made by code, a base model that has the skills, and an optimizer and a tokenizer for it."""

from lit_talr.lab.clinic import Clinic
from lit_talr.lab.muon import Muon
from lit_talr.lab.skills import Skills

__all__ = ["Clinic", "Muon", "Skills"]
