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
    def digest(self) -> str:
        """Identifies the weights; those of no step are the base model's."""
        return (self.folder or (self.base if self.step == 0 else None) or digest(self.base, self.origin, self.step))[:DIGITS]

    def about(self) -> dict[str, object]:
        """The part of a folder's manifest that tells where its weights come from."""
        return {"base": self.base, "origin": self.origin, "step": self.step}


def folder_weights(folder: Path) -> WeightsIdentity:
    """Identifies the weights of a model folder by its files; an export or a merge of this package tells their origin."""
    files = fingerprint(folder)
    about = read_json(folder / MANIFEST).get("about") or {}
    return WeightsIdentity(about.get("base", files), about.get("origin", ""), about.get("step", 0), files)
