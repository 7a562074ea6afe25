"""Names of TRL, LLaMA-Factory and axolotl in a pasted configuration: each is answered with the option here."""

import re
from collections.abc import Sequence

from lit_talr.cli.parsers import given_options, join_answers

ALIKE = {
    **dict.fromkeys(("model_name_or_path", "base_model", "model_name", "model_id"), "model.pretrained"),
    **dict.fromkeys(("learning_rate", "lr"), "model.optimizer.lr"),
    **dict.fromkeys(("num_train_epochs", "num_epochs", "epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("per_device_train_batch_size", "micro_batch_size"), "data.batching.micro_batch_size"),
    **dict.fromkeys(("packing", "sample_packing"), "data.batching.packing"),
    **dict.fromkeys(("max_grad_norm", "gradient_clipping"), "trainer.gradient_clip_val"),
    **dict.fromkeys(("lora_r", "lora_rank"), "model.lora.r"),
    **dict.fromkeys(("lora_target", "lora_target_modules"), "model.lora.targets"),
    **dict.fromkeys(("trainer.gpus", "trainer.num_gpus", "trainer.num_processes", "gpus"), "trainer.devices"),
    **{"lora_alpha": "model.lora.alpha", "lora_dropout": "model.lora.dropout", "warmup_ratio": "model.schedule.warmup_ratio"},
    **{"output_dir": "run", "data_seed": "data.batching.seed", "gradient_checkpointing": "model.compute.gradient_checkpointing"},
}
"""Options here by the names that other programs have for them; those below ``trainer`` are of older Lightnings."""
STEP = "the examples of an optimizer step: those of a micro-batch x micro-batches x devices"
ANSWERS = {
    **{name: f"is `{option}` here" for name, option in ALIKE.items()},
    **dict.fromkeys(("train_batch_size", "batch_size"), f"is `data.batching.batch_size` here, {STEP}"),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "accumulate_grad_batches", "trainer.accumulate_grad_batches"),
        f"follows here from `data.batching.batch_size`, {STEP}",
    ),
    **dict.fromkeys(
        ("cutoff_len", "sequence_len", "max_seq_length", "max_length"),
        "is `data.encoding.max_length` here, of one example (longer ones: `data.encoding.too_long`; packed rows: `data.batching.micro_batch_tokens`)",
    ),
    **dict.fromkeys(("dataset", "datasets", "dataset_name", "dataset_path"), "is `data.train` here, a file or a hub name"),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler"), "is `model.schedule` here: Cosine, Linear or Constant"),
    **dict.fromkeys(("report_to", "trainer.report_to"), "is `trainer.logger` here, such as WandbLogger"),
    **dict.fromkeys(("resume_from_checkpoint", "trainer.resume_from_checkpoint"), "is `ckpt_path` here: auto, last or a path"),
    "max_steps": "is `trainer.max_steps` here; the run ends there or with `trainer.max_epochs`, whichever comes first",
    "warmup_steps": "is `model.schedule.warmup_steps` here, together with `model.schedule.warmup_ratio: 0`",
    "weight_decay": "is `model.optimizer.weight_decay` here, which decays norms and biases too",
    "seed": "is `seed_everything` here, and `data.batching.seed` for the order of rows and dropout",
    "run_name": "is the name of the folder `run` here",
    "bf16": "is `trainer.precision: bf16-mixed` here",
    "fp16": "is `trainer.precision: 16-mixed` here",
    "deepspeed": "is a file of configs/strategy here, such as -c configs/strategy/zero2.yaml",
    "fsdp": "is a file here, -c configs/strategy/fsdp2.yaml",
}
"""The answer to each name: the rest of a sentence that begins with it."""


def explain_foreign(words: Sequence[str], message: str) -> str | None:
    """Answers all names of other programs on a command line and in its files, if an error's message is about such a name.

    A key of a file that is nobody's name is answered with the file and with the keys that a file can have.
    """
    match = re.search(r"(?:Subcommand '\w+'|Group '(\w+)') does not accept option '([\w.]+)'|unrecognized arguments: --([\w.]+)", message)
    if match is None:
        return None
    key = match[3] or ".".join(filter(None, (match[1], match[2])))
    places = {place: options for place, _, options in given_options(words)}
    if key in ANSWERS:
        return join_answers({place: {name: ANSWERS[name] for name in options if name in ANSWERS} for place, options in places.items()})
    file = next((place for place, options in places.items() if place and key in options), "")
    if file and match[0].startswith("Subcommand") and "did you mean" not in message:
        return f"{file}there is no option `{key}`; a file has the keys trainer, model, data, run, seed_everything and ckpt_path, as configs/base.yaml shows."
    return f"{file}{message}{'' if message.endswith('?') else '.'}" if file else None
