"""Names of TRL, LLaMA-Factory and axolotl in a pasted configuration: each is answered with the option here."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from lit_talr.cli.parsers import PACKAGE, option_names, read_config, typed_names

OPTIONS = {
    **dict.fromkeys(("model_name_or_path", "base_model", "model_name", "model_id"), "model.pretrained"),
    **dict.fromkeys(("learning_rate", "lr"), "model.optimizer.lr"),
    **dict.fromkeys(("num_train_epochs", "num_epochs", "epochs"), "trainer.max_epochs"),
    "max_steps": "trainer.max_steps",
    "weight_decay": "model.optimizer.weight_decay",
    **dict.fromkeys(("per_device_train_batch_size", "micro_batch_size"), "data.batching.micro_batch_size"),
    **dict.fromkeys(("gradient_accumulation_steps", "train_batch_size", "batch_size"), "data.batching.batch_size"),
    **dict.fromkeys(("cutoff_len", "sequence_len", "max_seq_length", "max_length"), "data.encoding.max_length"),
    **dict.fromkeys(("output_dir", "run_name"), "run"),
    **dict.fromkeys(("dataset", "datasets", "dataset_name", "dataset_path"), "data.train"),
    **dict.fromkeys(("max_grad_norm", "gradient_clipping"), "trainer.gradient_clip_val"),
    **dict.fromkeys(("bf16", "fp16"), "trainer.precision"),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler", "warmup_ratio", "warmup_steps"), "model.schedule"),
    **dict.fromkeys(("lora_r", "lora_rank"), "model.lora.r"),
    "lora_alpha": "model.lora.alpha",
    "seed": "seed_everything",
    "resume_from_checkpoint": "ckpt_path",
    "gradient_checkpointing": "model.compute.gradient_checkpointing",
    "deepspeed": "a file of configs/strategy",
    **dict.fromkeys(("report_to", "trainer.report_to"), "trainer.logger"),
    **dict.fromkeys(("trainer.gpus", "trainer.num_gpus", "trainer.tpu_cores", "trainer.num_processes", "gpus"), "trainer.devices"),
    "trainer.accumulate_grad_batches": "data.batching.batch_size",
    "trainer.resume_from_checkpoint": "ckpt_path",
}
"""Options here by the names that other programs have for them; those below ``trainer`` are of older Lightnings."""


def explain_foreign(words: Sequence[str], message: str) -> str | None:
    """The options here for all names of other programs on a command line and in its files, if an error's message is about such a name.

    A key of a file that is nobody's name is answered with the file and with the keys that a file can have.
    """
    match = re.search(r"(?:Subcommand '\w+'|Group '(\w+)') does not accept option '([\w.]+)'|unrecognized arguments: --([\w.]+)", message)
    if match is None:
        return None
    key = match[3] or ".".join(filter(None, (match[1], match[2])))
    places = {"": translate(typed_names(words))}
    holding = ""
    for path in (shipped_or_own(word.split("=", 1)[-1]) for word in words if Path(word).suffix in (".yaml", ".yml", ".json")):
        with suppress(ValueError, OSError):  # which the parser has named, if it is about this file
            names = list(option_names(read_config(path)))
            places[f"{path}: "] = translate(names)
            holding = holding or (f"{path}: " if key in names else "")
    if any(key in found for found in places.values()):
        return " ".join(f"{place}{'; '.join(f'`{old}` is `{new}` here' for old, new in found.items())}." for place, found in places.items() if found)
    if holding and match[0].startswith("Subcommand") and "did you mean" not in message:
        return f"{holding}there is no option `{key}`; a file has the keys trainer, model, data, run, seed_everything and ckpt_path, as configs/base.yaml shows."
    return f"{holding}{message}{'' if message.endswith('?') else '.'}" if holding else None


def translate(names: Iterable[str]) -> dict[str, str]:
    """The options here by their names in other programs."""
    return {name: OPTIONS[name] for name in names if name in OPTIONS}


def shipped_or_own(path: str) -> Path:
    return Path(path) if Path(path).is_file() else PACKAGE / path
