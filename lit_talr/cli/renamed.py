"""Names that have changed: an old one is refused with the new one."""

import re
from collections.abc import Iterable, Sequence

from lit_talr.cli.parsers import given_options, join_answers

OPTIONS = {
    **{
        f"model.{name}": f"model.compute.{name}"
        for name in ("attention", "head_kernel", "kept_logits", "liger_layers", "gradient_checkpointing", "checkpoint_every", "compile_layers")
    },
    **{"data.domain": "data", "data.general": "data.replay.general", "data.share": "data.replay.share"},
    "model.lora": "model.adapter",
    **{f"model.lora.{name}": f"model.adapter.{name}" for name in ("r", "alpha", "dropout", "targets")},
}
"""Options by their dotted names, without ``init_args``; those of other commands than ``fit`` and ``test`` without dots."""
CLASSES = {
    **{f"lit_talr.data.{name}": f"lit_talr.domains.{name}" for name in ("ESCI", "GSM8K", "MedCalc", "MetaMathQA", "Records", "Replay")},
    **{f"lit_talr.data.{name}": f"lit_talr.lab.{name}" for name in ("Clinic", "Skills")},
    "lit_talr.domains.replay.Replay": "lit_talr.domains.Replay",
    "lit_talr.optimizers.Muon": "lit_talr.lab.Muon",
}
"""Classes whose path is not that of their module."""
MODULES = {
    **{name: f"modeling.{name}" for name in ("backbone", "evaluation_mode", "generation", "sharded", "strategies", "vllm_engine")},
    **{name: f"training.{name}" for name in ("base_text", "non_finite", "resume", "schedules", "supported")},
    **{f"data.{name}": f"domains.{name}" for name in ("base", "esci", "gsm8k", "medcalc", "metamath", "prompts", "records")},
    **{f"data.{name}": f"lab.{name}" for name in ("clinic", "clinic_notes", "skill_items", "skills")},
    **dict.fromkeys(("lora", "modeling.lora"), "modeling.adapters"),
    "example": "data.example",
    **{name: f"utils.{name}" for name in ("files", "weight_files")},
    **{f"export.{name}": f"checkpoint.{name}" for name in ("checkpoint_weights", "rounding", "weights")},
    **{"export.command": "checkpoint.export", "merge": "checkpoint.merge", "checkpoints": "checkpoint.whole"},
    **{"models.make_tokenizer": "lab.make_tokenizer", "optimizers": "lab.muon", "reference": "training.base_nll"},
    **{"token_groups": "curriculum.token_groups", "cli_errors": "cli.errors", "demo": "cli.demo"},
}
"""Modules of lit_talr, whose classes a configuration can name."""


def explain_renamed(words: Sequence[str], message: str) -> str | None:
    """The new names for all old ones on a command line and in its files, if an error's message is about one of them."""
    changes = {place: find_renamed(text, options) for place, text, options in given_options(words)}
    if not any(re.search(rf"\b{old.rsplit('.', 1)[-1]}\b", message, re.IGNORECASE) for found in changes.values() for old in found):
        return None
    return join_answers({place: {old: f"is now `{new}`" for old, new in found.items()} for place, found in changes.items()})


def find_renamed(text: str, options: Iterable[str]) -> dict[str, str]:
    """The new names of options, and of the class paths in a text, by their old ones."""
    found = {name: OPTIONS[name] for name in options if name in OPTIONS}
    for path in re.findall(r"\blit_talr(?:\.\w+)+", text):
        module, _, name = path.removeprefix("lit_talr.").rpartition(".")
        if path in CLASSES:
            found[path] = CLASSES[path]
        elif module in MODULES:
            found[path] = f"lit_talr.{MODULES[module]}.{name}"
    return found
