"""Fine-tune language models on a domain without losing their general abilities.

Names are imported on first use: ``from lit_talr import talr_loss`` needs torch alone, ``from lit_talr import DomainSFT`` brings Lightning and transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_talr.data.batch_plan import Batching as Batching
    from lit_talr.data.encoding import Encoding as Encoding
    from lit_talr.domains import *  # noqa: F403
    from lit_talr.losses import *  # noqa: F403
    from lit_talr.modeling.adapters import BOFT as BOFT
    from lit_talr.modeling.adapters import OFT as OFT
    from lit_talr.modeling.adapters import OSF as OSF
    from lit_talr.modeling.adapters import Adapter as Adapter
    from lit_talr.modeling.adapters import LoRA as LoRA
    from lit_talr.modeling.generation import Generation as Generation
    from lit_talr.module import DomainSFT as DomainSFT
    from lit_talr.training.building import Compute as Compute
    from lit_talr.training.hft import HalfFineTuning as HalfFineTuning
    from lit_talr.training.mofo import MoFO as MoFO
    from lit_talr.training.non_finite import NonFinite as NonFinite
    from lit_talr.training.own_samples import OwnSamples as OwnSamples
    from lit_talr.training.schedules import FINCH as FINCH
    from lit_talr.training.schedules import Constant as Constant
    from lit_talr.training.schedules import Cosine as Cosine
    from lit_talr.training.schedules import Linear as Linear
    from lit_talr.training.schedules import Schedule as Schedule

HOMES = {
    "data.batch_plan": ("Batching",),
    "data.encoding": ("Encoding",),
    "domains": ("DomainDataModule", "ESCI", "GSM8K", "MedCalc", "MetaMathQA", "Records", "Replay"),
    "losses": (
        *("ASFT", "DFT", "EAFT", "EWC", "FLOW", "GCE", "IWSFT", "InfoSFT", "KL", "L2", "LossStrategy", "MaskTheTarget"),
        *("Permuted", "PriFT", "Rho1", "STM", "TALR"),
        *("Standard", "TokenStats", "Truncation", "talr_loss", "talr_weights"),
    ),
    "modeling.generation": ("Generation",),
    "modeling.adapters": ("BOFT", "OFT", "OSF", "Adapter", "LoRA"),
    "module": ("DomainSFT",),
    "training.building": ("Compute",),
    "training.hft": ("HalfFineTuning",),
    "training.mofo": ("MoFO",),
    "training.non_finite": ("NonFinite",),
    "training.own_samples": ("OwnSamples",),
    "training.schedules": ("FINCH", "Constant", "Cosine", "Linear", "Schedule"),
}
"""The module of each public name."""
__all__ = [name for names in HOMES.values() for name in names]  # pyright: ignore[reportUnsupportedDunderAll]

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return read_version()
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"lit_talr.{home}"), name)
    raise AttributeError(f"module 'lit_talr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


def read_version() -> str:
    """The version of the installed package; unknown in an unpacked wheel or a bare checkout."""
    from importlib.metadata import PackageNotFoundError, version  # takes longer than all else in this file

    try:
        return version("lit_talr")
    except PackageNotFoundError:
        return "unknown"
