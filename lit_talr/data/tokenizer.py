"""Loading a tokenizer, and its hash."""

import hashlib
from copy import deepcopy
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lit_talr.utils.errors import first_line, without_code
from lit_talr.utils.files import looks_like_path, shipped, why_broken
from lit_talr.utils.model_config import ConfigError, explained_config
from lit_talr.utils.waiting import fetching


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Loads a tokenizer with all that training and generation need; never runs code from the hub. Without a pad token it pads with its end token.

    Args:
        name: Folder, hub name, or a folder that ships with this package (``lit_talr/lab/base``).
        revision: Commit, tag or branch of a hub tokenizer.

    Raises:
        ValueError: For a name that cannot be loaded, and a tokenizer without an end token.
    """
    folder = Path(shipped(name))
    if looks_like_path(name) and not folder.is_dir():
        raise ValueError(f"The tokenizer must be a folder or a hub name, got {name!r}, which is not there.")
    if folder.is_dir() and not any((folder / file).is_file() for file in ("tokenizer_config.json", "tokenizer.json")):
        raise ValueError(f"{name} is a folder without a tokenizer (tokenizer_config.json); give the one that belongs to the model as `model.tokenizer`.")
    try:
        with explained_config(shipped(name)), without_code(name), fetching(shipped(name)):
            tokenizer = AutoTokenizer.from_pretrained(shipped(name), revision=revision or "main", trust_remote_code=False)
    except ConfigError:
        raise
    except (OSError, ValueError, ImportError) as error:
        for file in chain.from_iterable(map(folder.glob, ("*token*", "vocab*", "*.model"))):
            if file.is_file() and (fault := why_broken(file)):
                raise ValueError(f"{file} is not a file of a tokenizer ({fault}); fetch or write it again.") from error
        if "backend tokenizer" in str(error):
            raise ValueError(f"{name} has no tokenizer.json (nor a file that one can be made of); give the model's own as `model.tokenizer`.") from error
        where = f"{name!r} (revision {revision or 'main'})"
        raise ValueError(f"The tokenizer must be a folder or a hub name that can be loaded, got {where}: {first_line(error).rstrip('.')}.") from error
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f'The tokenizer {name!r} has no end token; set "eos_token" in its tokenizer_config.json (of a local copy) to the token that ends its responses.'
        )
    if tokenizer.pad_token_id is None:  # as Llama 3's; padding never carries loss, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """The hash of the files that a tokenizer is saved in, without its last padding and truncation."""
    tokenizer, digest = deepcopy(tokenizer), hashlib.sha256()
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        backend.no_padding()
        backend.no_truncation()
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()
