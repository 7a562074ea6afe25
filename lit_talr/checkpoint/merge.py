"""Interpolates and averages the weights of models, shard by shard."""

import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from huggingface_hub import ModelCardData
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import GENERATION_CONFIG_NAME

from lit_talr.checkpoint.weights import INDEX, write_files
from lit_talr.modeling.generation import read_valid
from lit_talr.modeling.loading import check_weights, read_config
from lit_talr.utils.errors import without_code
from lit_talr.utils.files import new_folder, write_text
from lit_talr.utils.identity import WeightsIdentity, folder_weights
from lit_talr.utils.manifest import MANIFEST, is_made, write_manifest
from lit_talr.utils.score import digest
from lit_talr.utils.weight_files import TensorInfo, model_folder, read_tensor, tensors

HEAD = "lm_head.weight"
COPIED = ("*.json", "*.jinja", "*.txt", "*.model")
CHUNK = 2**22
"""Numbers added at a time."""


class Term(NamedTuple):
    """A model and its share in the result."""

    share: float  # in the first layer, and in all that is in no layer
    last_share: float  # in the last layer; between the two it changes linearly
    name: str  # as the user gave it
    folder: Path
    tensors: Mapping[str, TensorInfo]

    def share_at(self, depth: float) -> float:
        """The share in a layer, of which 0 is the first and 1 the last; exact at both ends."""
        return (1 - depth) * self.share + depth * self.last_share


def merge(
    out: Path, tuned: str | list[str], base: str | None = None, alpha: float | list[float] | None = None, method: Literal["linear", "lines"] = "linear"
) -> None:
    """Interpolate a fine-tuned model with its base model (Wise-FT, LiNeS), or average several.

    theta = theta_base + share * (theta_tuned - theta_base). With ``linear`` the share is alpha everywhere (Wortsman et al., "Robust fine-tuning of zero-shot
    models", arXiv:2109.01903). With ``lines`` it is alpha + (1 - alpha) * l / (L - 1) in layer l = 0, ..., L - 1, and alpha in all that is in no layer, such
    as embedding, last norm and head (Wang et al., "LiNeS", arXiv:2410.17146, as its code has it for one task). Several tuned models enter with equal shares
    (a uniform soup, arXiv:2203.05482). Computed in float32, one tensor at a time, and written in the dtype, with the shards, the tokenizer and the
    configuration of the (first) tuned model. At share 0 and 1 a tensor is bitwise the base's and the tuned model's.

    Args:
        out: A new folder; for a list of alphas it gets one for each, such as ``alpha-0.3``.
        tuned: Folder or hub name of the tuned model, or a list of them.
        base: Folder or hub name of the base model; left out, the tuned models are averaged.
        alpha: Share of the tuned model in [0, 1], or a list; 0.5 where it is left out. Wise-FT's in the paper is not known, 0.5 is FLOW's (arXiv:2502.02797);
            LiNeS chooses among 0, 0.1, ..., 1 by validation.
        method: ``linear``, the same share in every layer, or ``lines``, a share that grows with the layer to 1.

    Raises:
        ValueError: For an alpha out of range, models of different tensors or shapes (by name), or of others than their configuration asks for, values that
            are not finite, layers that ``lines`` cannot number, and a folder that holds something else already.
    """
    models = [tuned] if isinstance(tuned, str) else tuned
    if base is None and (alpha is not None or method != "linear" or len(models) < 2):
        raise ValueError("`merge` needs `--base` to interpolate with, or at least two `--tuned` models, without `--alpha` and `--method`, to average.")
    if not models:
        raise ValueError("`tuned` must name at least one model, got an empty list.")
    if method not in ("linear", "lines"):
        raise ValueError(f"`method` must be `linear` or `lines`, got {method!r}.")
    alphas = alpha if isinstance(alpha, list) else [0.5 if alpha is None else alpha]
    if not alphas or any(not 0 <= value <= 1 for value in alphas) or len({f"{value:g}" for value in alphas}) < len(alphas):
        raise ValueError(f"`alpha` must lie in [0, 1], or be a list of different such numbers, got {alpha}.")
    out = out.expanduser()
    outs = {value: out / f"alpha-{value:g}" if isinstance(alpha, list) else out for value in alphas}
    for path in outs.values():
        is_made(path)
    names = models if base is None else [*models, base]
    folders = [model_folder(name) for name in names]
    contents = matching_tensors(folders)
    check_weights(folders[0])  # the others have the same tensors
    depths = layer_depths(contents[0], folders[0]) if method == "lines" else {}
    for value, path in outs.items():
        first, last = (1.0 if base is None else value), (1.0 if base is None or method == "lines" else value)
        terms = [Term(first / len(models), last / len(models), *term) for term in zip(names, folders, contents, strict=True)]
        options = ["--tuned", json.dumps(models) if len(models) > 1 else models[0]]
        if base is not None:
            terms[-1] = terms[-1]._replace(share=1 - first, last_share=1 - last)
            options += ["--base", base, "--alpha", f"{value:g}"]
        options += [] if method == "linear" else ["--method", method]
        write_merge(path, terms, depths, shlex.join(["lit-talr", "merge", *options, "--out", str(path)]))


def layer_depths(contents: Mapping[str, TensorInfo], folder: Path) -> dict[str, float]:
    """The depth l / (L - 1) of each tensor that is in a layer of the language model, l being the first number in its name.

    Raises:
        ValueError: For numbers that are not those of one stack of at least two layers, as the configuration has it.
    """
    places = {name: match.groups() for name in contents if (match := re.match(r"(.*?)\.(\d+)\.", name))}
    stacks = sorted({stack for stack, _ in places.values()})
    texts = [stack for stack in stacks if "language_model" in stack] or stacks  # next to a vision tower, which is not trained
    layers = {name: int(layer) for name, (stack, layer) in places.items() if stack in texts}
    num_layers = read_text_config(folder).num_hidden_layers
    if len(texts) != 1 or num_layers < 2 or {*layers.values()} != {*range(num_layers)}:
        names = ", ".join(f"`{stack}.*`" for stack in stacks) or "none"
        raise ValueError(f"`method: lines` needs one stack of at least two numbered layers, and {folder} has {num_layers} layer(s) in {names}; use `linear`.")
    return {name: layer / (num_layers - 1) for name, layer in layers.items()}


def matching_tensors(folders: Sequence[Path]) -> list[dict[str, TensorInfo]]:
    """The tensors of each model, which must have the same names and shapes.

    Models whose head is their embedding may or may not have a copy of it in their files; it is left out then.

    Raises:
        ValueError: For the first tensor that differs.
    """
    contents = [tensors(folder) for folder in folders]
    if any(HEAD not in content for content in contents) and all(is_tied(folder) for folder in folders):
        for content in contents:
            content.pop(HEAD, None)
    first = contents[0]
    for folder, content in zip(folders[1:], contents[1:], strict=True):
        for name in sorted(first.keys() | content.keys()):
            if name not in first or name not in content:
                has, lacks = (folder, folders[0]) if name in content else (folders[0], folder)
                raise ValueError(f"{lacks} has no tensor `{name}`, which {has} has; only models of one architecture can be merged.")
            if first[name].shape != content[name].shape:
                shapes = f"{list(first[name].shape)} in {folders[0]} but {list(content[name].shape)} in {folder}"
                raise ValueError(f"`{name}` is {shapes}; only models of one architecture can be merged.")
    return contents


def is_tied(folder: Path) -> bool:
    """Whether the head is the embedding, which is the default of some families."""
    return bool(read_text_config(folder).tie_word_embeddings)


def read_text_config(folder: Path) -> PretrainedConfig:
    """The configuration of a model's text part.

    Raises:
        ValueError: If transformers does not know it.
    """
    try:
        with without_code(str(folder)):
            return read_config(str(folder)).get_text_config()
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder / 'config.json'} is not a configuration that transformers knows ({' '.join(str(error).split())}).") from error


def write_merge(out: Path, terms: Sequence[Term], depths: Mapping[str, float], command: str) -> None:
    """Writes the sum of the terms as a model folder, in the shards of the first term; tensors without a depth have that of the first layer."""
    first, about = terms[0], merged_identity(terms).about()
    if is_made(out, about, command):
        print(f"{out}: is there already, from the same models")
        return
    files: dict[str, list[str]] = {}
    for name, info in first.tensors.items():
        files.setdefault(info.file.name, []).append(name)
    with new_folder(out) as folder:
        write_files(folder, files, lambda name: combine(name, terms, depths.get(name, 0.0)), f"Merging into {out.name}")
        for path in (path for pattern in COPIED for path in sorted(first.folder.glob(pattern)) if path.name not in (INDEX, MANIFEST)):
            shutil.copyfile(path, folder / path.name)
        settings = first.folder / GENERATION_CONFIG_NAME
        if settings.is_file() and (valid := read_valid(settings)) is not None:
            valid.save_pretrained(folder)
        write_text(folder / "README.md", model_card(terms, command))
        write_manifest(folder, about=about)
    print(f"{out}: {formula(terms)}, {len(first.tensors):,} tensors in {len(files)} file(s)")


def merged_identity(terms: Sequence[Term]) -> WeightsIdentity:
    """The identity of the sum: its base model is that of all terms, if they share one."""
    parts = [folder_weights(term.folder) for term in terms]
    bases = {part.base for part in parts}
    shares = [term.share if term.share == term.last_share else (term.share, term.last_share) for term in terms]
    origin = digest([(share, part.folder) for share, part in zip(shares, parts, strict=True)])
    return WeightsIdentity(bases.pop() if len(bases) == 1 else None, origin, None)


def combine(name: str, terms: Sequence[Term], depth: float) -> Tensor:
    """One tensor of the result, in the dtype that it has in the first model; its depth decides the shares.

    Raises:
        ValueError: For integers that differ, quantised weights, and values that are not finite.
    """
    first = read_tensor(terms[0].tensors[name])
    if not first.is_floating_point():
        for term in terms[1:]:
            if not torch.equal(first, read_tensor(term.tensors[name])):
                raise ValueError(f"`{name}` holds {first.dtype} that differ in {terms[0].name} and {term.name}; nothing lies between them.")
        return first
    if first.itemsize < 2:
        raise ValueError(f"`{name}` holds {first.dtype} in {terms[0].name}, quantised weights, which cannot be added; give the model in bfloat16 or float32.")
    parts = [(term, read_tensor(term.tensors[name])) for term in terms if term.share_at(depth)]
    for term, part in parts:
        if not part.isfinite().all():
            raise ValueError(f"`{name}` holds values that are not finite in {term.name}, so the model is broken; give another checkpoint's export.")
    return weighted_sum([(term.share_at(depth), part) for term, part in parts], first.dtype)


def weighted_sum(parts: Sequence[tuple[float, Tensor]], dtype: torch.dtype) -> Tensor:
    """The sum in float32, or float64 where a part is, chunk by chunk; a single part of share 1 stays bitwise the same."""
    shares, values = zip(*parts, strict=True)
    if shares == (1.0,):
        return values[0].to(dtype)
    wide = reduce(torch.promote_types, (value.dtype for value in values), torch.float32)
    result = torch.empty(values[0].shape, dtype=dtype)
    for target, *chunks in zip(result.view(-1).split(CHUNK), *(value.reshape(-1).split(CHUNK) for value in values), strict=True):
        target.copy_(sum(share * chunk.to(wide) for share, chunk in zip(shares, chunks, strict=True)))
    return result


def formula(terms: Sequence[Term]) -> str:
    """The sum in words; a share that grows with the layer has both its ends."""
    ends = [(f"{term.share:.4g}", f"{term.last_share:.4g}") for term in terms]
    return " + ".join(f"{first if first == last else f'{first}..{last}'} x {term.name}" for (first, last), term in zip(ends, terms, strict=True))


def model_card(terms: Sequence[Term], command: str) -> str:
    """The first model's card without its scores, which are not those of the result."""
    path = terms[0].folder / "README.md"
    data = ModelCardData(library_name="transformers", pipeline_tag="text-generation", tags=["lit_talr"])
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else f"---\n{data.to_yaml()}\n---\n"
    sections = [section for section in text.split("\n## ") if not section.startswith(("Scores\n", "Merge\n"))]
    return (
        "\n## ".join(sections).rstrip() + f"\n\n## Merge\n\nWeights: {formula(terms)}. The sections above describe the first of them.\n\n```\n{command}\n```\n"
    )
