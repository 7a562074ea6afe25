"""Results cached by content in ``.cache`` next to the run folders, so that runs side by side share them."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lit_talr.utils.files import write_bytes
from lit_talr.utils.waiting import on_rank_zero

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A cached result."""

    tensors: Mapping[str, Tensor] = {}  # on the CPU, memory-mapped once they are read
    record: Any = None  # whatever JSON holds


class ContentCache:
    """One cached result, under the hash of everything that it depends on.

    An entry is one safetensors file that carries its key and a checksum. An entry that is cut short, was changed, or belongs to another key is not read.

    Args:
        run: The run folder; the cache is ``.cache`` in its parent.
        kind: What the result is, such as ``base-nll``; begins the file's name and the log lines.
        about: Everything that the result depends on, as text or bytes.
    """

    def __init__(self, run: str | Path, kind: str, *about: str | bytes | memoryview) -> None:
        digest = hashlib.sha256(kind.encode())
        for part in about:
            content = part.encode() if isinstance(part, str) else part
            digest.update(f"\0{len(content)}\0".encode())
            digest.update(content)
        self.kind = kind
        self.key = digest.hexdigest()
        self.path = Path(run).resolve().parent / ".cache" / f"{kind}-{self.key[:32]}.safetensors"

    def read(self) -> Entry | None:
        """The cached result; None where there is none, or it is not whole."""
        problem = None
        try:
            with safe_open(self.path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            problem = "is not whole"
        else:
            if about.get("key") != self.key:
                problem = "belongs to other content"
            elif about.get("sha256") != checksum(tensors, about.get("record", "")):
                problem = "is not what was written"
        if problem is None:
            return Entry(tensors, json.loads(about["record"]))
        logger.info(f"{self.kind}: {self.path} {problem}; it is computed again.")
        return None

    def write(self, entry: Entry) -> bool:
        """Whether the result could be cached; where it could not, the log says why and the run goes on."""
        record = json.dumps(entry.record)
        tensors = {name: tensor.contiguous() for name, tensor in entry.tensors.items()}
        try:
            write_bytes(self.path, save(tensors, {"key": self.key, "sha256": checksum(tensors, record), "record": record}))
        except OSError as error:
            logger.warning(f"{self.kind} could not be cached ({error.__cause__ or error}); this run goes on, the next one computes it again.")
            return False
        logger.info(f"{self.kind}: cached in {self.path}.")
        return True


def read_or_compute(trainer: "Trainer", cache: ContentCache, compute: Callable[[], Entry]) -> Entry:
    """Reads the entry, or else computes it on all ranks and lets rank zero cache it. Collective.

    Args:
        trainer: Knows the ranks.
        cache: Of the same key on every rank.
        compute: Gives the same entry on every rank.
    """
    if on_rank_zero(trainer, lambda: cache.read() is not None, f"reads {cache.path}"):
        entry = cache.read()
        assert entry is not None
        if trainer.is_global_zero:
            logger.info(f"{cache.kind}: read from {cache.path}.")
        return entry
    entry = compute()
    written = on_rank_zero(trainer, lambda: cache.write(entry), f"writes {cache.path}")
    return (cache.read() if written else None) or entry  # what is read is memory-mapped


def checksum(tensors: Mapping[str, Tensor], record: str) -> str:
    """The hash of names, shapes, values and record."""
    digest = hashlib.sha256(record.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.numel():  # an empty one cannot be viewed as bytes
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
