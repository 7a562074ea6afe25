"""Loss strategies, one per file; each turns per-token numbers into weights."""

from lit_talr.losses.base import LossStrategy, TokenStats
from lit_talr.losses.dft import DFT
from lit_talr.losses.l2 import L2
from lit_talr.losses.standard import Standard
from lit_talr.losses.talr import TALR

__all__ = ["DFT", "L2", "TALR", "LossStrategy", "Standard", "TokenStats"]
