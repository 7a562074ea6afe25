"""Identifies weights without hashing those in memory."""

from pathlib import Path
from typing import NamedTuple

from lit_talr.utils.files import read_json
from lit_talr.utils.manifest import MANIFEST
from lit_talr.utils.score import DIGITS, digest
from lit_talr.utils.weight_files import fingerprint


class WeightsIdentity(NamedTuple):
    """The weights that a score is of.

    Those of a folder are identified by its files. Those in memory are not hashed: they follow from the base model, the run that changed them, and the
    number of its optimizer steps.
    """

    base: str | None  # hash of the base model's files; None for random weights
    origin: str  # hash of everything else that decides what training makes of them; empty for a folder
    step: int | None  # optimizer steps since the base; None where nobody has counted them
    folder: str | None = None  # hash of the folder's files

    @property
