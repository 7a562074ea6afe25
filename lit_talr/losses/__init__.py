"""Loss strategies, one per file; each turns per-token numbers into weights."""

from lit_talr.losses.asft import ASFT
from lit_talr.losses.base import LossStrategy, TokenStats
from lit_talr.losses.dft import DFT
from lit_talr.losses.eaft import EAFT
from lit_talr.losses.ewc import EWC
from lit_talr.losses.flow import FLOW
from lit_talr.losses.gce import GCE
from lit_talr.losses.infosft import InfoSFT
from lit_talr.losses.iw_sft import IWSFT
from lit_talr.losses.kl import KL
from lit_talr.losses.l2 import L2
from lit_talr.losses.mask_the_target import MaskTheTarget
from lit_talr.losses.permuted import Permuted
from lit_talr.losses.prift import PriFT
from lit_talr.losses.rho1 import Rho1
from lit_talr.losses.standard import Standard
from lit_talr.losses.stm import STM
from lit_talr.losses.talr import TALR, talr_loss, talr_weights
from lit_talr.losses.truncation import Truncation

__all__ = [
    "ASFT",
    "DFT",
    "EAFT",
    "EWC",
    "FLOW",
    "GCE",
    "IWSFT",
    "KL",
    "L2",
    "STM",
    "TALR",
    "InfoSFT",
    "LossStrategy",
    "MaskTheTarget",
    "Permuted",
    "PriFT",
    "Rho1",
    "Standard",
    "TokenStats",
    "Truncation",
    "talr_loss",
    "talr_weights",
]
