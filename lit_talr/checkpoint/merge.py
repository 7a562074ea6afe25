"""Models between models: Wise-FT and averages, shard by shard."""

import json
import shlex
import shutil
from collections.abc import Sequence
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import ModelCardData
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from lit_talr.utils.files import new_folder, write_json, write_text
from lit_talr.utils.weight_files import TensorInfo, model_folder, read_tensor, tensors

HEAD = "lm_head.weight"
COPIED = ("*.json", "*.jinja", "*.txt", "*.model")
INDEX = "model.safetensors.index.json"
PIECE = 2**22
"""Numbers that are added at a time."""


class Term(NamedTuple):
    """A model and its share in the result."""

    share: float
    name: str  # as it was given
    folder: Path


def merge(out: Path, tuned: str | list[str], base: str | None = None, alpha: float | list[float] | None = None) -> None:
    """Interpolate a fine-tuned model with the one it started from (Wise-FT), or average several.

    theta = (1 - alpha) * theta_base + alpha * theta_tuned (Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv:2109.01903); several tuned
    models enter with equal shares (a uniform soup, arXiv:2203.05482). Computed in float32, one tensor at a time, and written in the dtype, with the
    shards, the tokenizer and the configuration of the (first) tuned model. At alpha 0 and 1 the result is bitwise the base and the tuned model.

    Args:
        out: A new folder; for a list of alphas it gets one for each, such as ``alpha-0.3``.
        tuned: Folder or hub name of the tuned model, or a list of them.
        base: Folder or hub name of the starting model; left out, the tuned models are averaged.
        alpha: Share of the tuned model in [0, 1], or a list; 0.5 where it is left out. The paper's is not known, 0.5 is FLOW's (arXiv:2502.02797).

    Raises:
        ValueError: For an alpha out of range, models of different tensors or shapes (by name), and a folder that is used already.
    """
    models = [tuned] if isinstance(tuned, str) else tuned
    if base is None and (alpha is not None or len(models) < 2):
        raise ValueError("`merge` needs `--base` to interpolate with, or at least two `--tuned` models, without `--alpha`, to average.")
    if not models:
        raise ValueError("`tuned` must name at least one model, got an empty list.")
    alphas = alpha if isinstance(alpha, list) else [0.5 if alpha is None else alpha]
    if not alphas or any(not 0 <= value <= 1 for value in alphas) or len({f"{value:g}" for value in alphas}) < len(alphas):
        raise ValueError(f"`alpha` must lie in [0, 1], or be a list of different such numbers, got {alpha}.")
    out = out.expanduser()
    outs = {value: out / f"alpha-{value:g}" if isinstance(alpha, list) else out for value in alphas}
    for path in outs.values():
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"`out`: {path} is there already; name a new folder.")
    names = [*models, *([] if base is None else [base])]
    folders = [model_folder(name) for name in names]
    found = check_alike(folders)
    for value, path in outs.items():
        share = (1.0 if base is None else value) / len(models)
        shares = [share] * len(models) + ([] if base is None else [1 - value])
        terms = [Term(*term) for term in zip(shares, names, folders, strict=True)]
        options = ["--tuned", json.dumps(models) if len(models) > 1 else models[0], *([] if base is None else ["--base", base, "--alpha", f"{value:g}"])]
        write(path, terms, found, shlex.join(["lit-talr", "merge", *options, "--out", str(path)]))


def check_alike(folders: Sequence[Path]) -> list[dict[str, TensorInfo]]:
    """The tensors of each model, after making sure that they have the same names and shapes.

    Models whose head is their embedding may or may not have a copy of it in their files; it is left out then.

    Raises:
        ValueError: For the first tensor that differs.
    """
    found = [tensors(folder) for folder in folders]
    if any(HEAD not in names for names in found) and all(is_tied(folder) for folder in folders):
        for names in found:
            names.pop(HEAD, None)
    for folder, names in zip(folders[1:], found[1:], strict=True):
        for name in sorted(found[0].keys() | names.keys()):
            for here, other, tensor_names in ((folders[0], folder, names), (folder, folders[0], found[0])):
                if name not in tensor_names:
                    raise ValueError(f"{other} has no tensor `{name}`, which {here} has; only models of one architecture can be merged.")
            if found[0][name].shape != names[name].shape:
                shapes = f"{list(found[0][name].shape)} in {folders[0]} but {list(names[name].shape)} in {folder}"
                raise ValueError(f"`{name}` is {shapes}; only models of one architecture can be merged.")
    return found


def is_tied(folder: Path) -> bool:
    """Whether the head is the embedding, which a family may take for granted."""
    try:
        return bool(AutoConfig.from_pretrained(folder).get_text_config().tie_word_embeddings)
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder / 'config.json'} is not a configuration that transformers knows ({' '.join(str(error).split())}).") from error


def write(out: Path, terms: Sequence[Term], found: Sequence[dict[str, TensorInfo]], command: str) -> None:
    """Write the sum of the terms, its files cut like those of the first, in one move."""
    source = terms[0].folder
    shards: dict[str, list[str]] = {}
    for name, info in found[0].items():
        shards.setdefault(info.file.name, []).append(name)
    total_size = 0
    with new_folder(out) as folder:
        names_left = iter(track(list(chain(*shards.values())), f"Merging into {out.name}", transient=True, console=Console(stderr=True)))
        for file, names in shards.items():
            shard = {name: combine(name, terms, found) for name, _ in zip(names, names_left, strict=False)}
            total_size += sum(tensor.nbytes for tensor in shard.values())
            save_file(shard, folder / file, metadata={"format": "pt"})
            del shard
        list(names_left)  # ends the bar
        if len(shards) > 1:
            weight_map = {name: file for file, names in shards.items() for name in names}
            write_json(folder / INDEX, {"metadata": {"total_size": total_size}, "weight_map": weight_map})
        for path in (path for pattern in COPIED for path in sorted(source.glob(pattern)) if path.name != INDEX):
            shutil.copyfile(path, folder / path.name)
        write_text(folder / "README.md", card(source, terms, command))
    print(f"{out}: {formula(terms)}, {sum(map(len, shards.values())):,} tensors in {len(shards)} file(s)")


def combine(name: str, terms: Sequence[Term], found: Sequence[dict[str, TensorInfo]]) -> Tensor:
    """One tensor of the result, in the dtype it has in the first model.

    Raises:
        ValueError: For whole numbers that differ: there is nothing between them.
    """
    first = read_tensor(found[0][name])
    if not first.is_floating_point():
        for term, names in zip(terms[1:], found[1:], strict=True):
            if not torch.equal(first, read_tensor(names[name])):
                raise ValueError(f"`{name}` holds {first.dtype} that differ in {terms[0].name} and {term.name}; nothing lies between them.")
        return first
    if first.itemsize < 2:
        raise ValueError(f"`{name}` holds {first.dtype} in {terms[0].name}, quantised weights, which cannot be added; give the model in bfloat16 or float32.")
    parts = [(term.share, first if number == 0 else read_tensor(found[number][name])) for number, term in enumerate(terms) if term.share]
    return weighted_sum(parts, first.dtype)


def weighted_sum(parts: Sequence[tuple[float, Tensor]], dtype: torch.dtype) -> Tensor:
    """In float32, or float64 where a part is, a piece after the other; a single part of share 1 stays bitwise what it is."""
    shares, values = zip(*parts, strict=True)
    if shares == (1.0,):
        return values[0].to(dtype)
    wide = reduce(torch.promote_types, (value.dtype for value in values), torch.float32)
    result = torch.empty(values[0].shape, dtype=dtype)
    for target, *pieces in zip(result.view(-1).split(PIECE), *(value.reshape(-1).split(PIECE) for value in values), strict=True):
        target.copy_(sum(share * piece.to(wide) for share, piece in zip(shares, pieces, strict=True)))
    return result


def formula(terms: Sequence[Term]) -> str:
    return " + ".join(f"{term.share:.4g} x {term.name}" for term in terms)


def card(source: Path, terms: Sequence[Term], command: str) -> str:
    """The tuned model's card without its scores, which are not those of the result."""
    path = source / "README.md"
    data = ModelCardData(library_name="transformers", pipeline_tag="text-generation", tags=["lit_talr"])
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else f"---\n{data.to_yaml()}\n---\n"
    kept = [part for part in text.split("\n## ") if not part.startswith(("Scores\n", "Merge\n"))]
    return "\n## ".join(kept).rstrip() + f"\n\n## Merge\n\nWeights: {formula(terms)}. What is said above is of the first of them.\n\n```\n{command}\n```\n"
