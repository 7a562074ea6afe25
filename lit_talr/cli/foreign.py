"""Names that a pasted configuration has otherwise: those of TRL, LLaMA-Factory and axolotl, and own ones that stand in the wrong place."""

import re
from collections.abc import Sequence

from lightning.pytorch import Trainer

from lit_talr.cli.parsers import LINKED, given_options, join_answers
from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoding import Encoding
from lit_talr.domains import Records
from lit_talr.module import DomainSFT
from lit_talr.training.building import Compute
from lit_talr.training.configuration import option_names

ALIKE = {
    **dict.fromkeys(("model_name_or_path", "base_model", "model_name", "model_id"), "model.pretrained"),
    **dict.fromkeys(("learning_rate", "lr"), "model.optimizer.lr"),
    **dict.fromkeys(("num_train_epochs", "num_epochs", "epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("per_device_train_batch_size", "micro_batch_size"), "data.batching.micro_batch_size"),
    **dict.fromkeys(("per_device_eval_batch_size", "eval_batch_size"), "data.batching.eval_batch_size"),
    **dict.fromkeys(("dataloader_num_workers", "num_workers"), "data.batching.num_workers"),
    **dict.fromkeys(("packing", "sample_packing", "neat_packing"), "data.batching.packing"),
    **dict.fromkeys(("max_grad_norm", "gradient_clipping"), "trainer.gradient_clip_val"),
    **dict.fromkeys(("lora_r", "lora_rank"), "model.adapter.r"),
    **{name: f"model.adapter.{name}" for name in ("use_dora", "use_rslora", "init_lora_weights")},
    **dict.fromkeys(("lora_target", "lora_target_modules"), "model.adapter.targets"),
    **dict.fromkeys(("gpus", "num_gpus", "num_processes", "nproc_per_node"), "trainer.devices"),
    **dict.fromkeys(("attn_implementation", "flash_attn", "flash_attention"), "model.compute.attention"),
    **dict.fromkeys(("use_liger_kernel", "enable_liger_kernel", "use_liger"), "model.compute.liger_layers"),
    **{"lora_alpha": "model.adapter.alpha", "lora_dropout": "model.adapter.dropout", "warmup_ratio": "model.schedule.warmup_ratio"},
    **{"output_dir": "run", "data_seed": "data.batching.seed", "gradient_checkpointing": "model.compute.gradient_checkpointing"},
    **{"logging_steps": "trainer.log_every_n_steps", "torch_compile": "model.compute.compile_layers", "full_determinism": "trainer.deterministic"},
    **{"adam_epsilon": "model.optimizer.eps", "model_revision": "model.revision", "max_new_tokens": "model.generation.max_new_tokens"},
}
"""Options here by the names that other programs, and older Lightnings, have for them."""
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
    **dict.fromkeys(
        ("assistant_only_loss", "completion_only_loss", "train_on_inputs", "train_on_prompt", "mask_history", "roles_to_train", "train_on_eos"),
        "is settled here: responses are learned with their end token, never prompts; `data.turns` says which turns of a conversation, all or the last",
    ),
    **dict.fromkeys(("dataset", "datasets", "dataset_name", "dataset_path"), "is `data.train` here, a file or a hub name"),
    **dict.fromkeys(("eval_dataset", "test_datasets"), "is `data.val` here, a file or a hub name"),
    **dict.fromkeys(("val_size", "val_set_size"), "is `data.validation` here, the share of the training rows that validates instead"),
    **dict.fromkeys(
        ("dataset_text_field", "field_messages"), "is `data.prompt` and `data.response` here, or for conversations `data.messages`: the names of columns"
    ),
    **dict.fromkeys(("template", "chat_template_path"), "is the tokenizer's own here, or the file `data.encoding.chat_template`"),
    **dict.fromkeys(
        ("eval_strategy", "evaluation_strategy", "do_eval"), "is every epoch here; `trainer.check_val_every_n_epoch` or `trainer.val_check_interval` changes it"
    ),
    **dict.fromkeys(("eval_steps", "evals_per_epoch"), "is `trainer.val_check_interval` here, in micro-batches, or as a share of the epoch such as 0.5"),
    **dict.fromkeys(
        ("save_strategy", "save_steps", "save_total_limit", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        "belongs to WholeCheckpoint in `trainer.callbacks`: every_n_epochs, every_n_train_steps, save_top_k, monitor and mode",
    ),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler"), "is `model.schedule` here: Cosine, Linear or Constant"),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), "is `model.optimizer.betas` here, such as [0.9,0.999]"),
    **dict.fromkeys(("report_to", "wandb_project", "wandb_entity"), "is `trainer.logger` here, such as WandbLogger with its project"),
    **dict.fromkeys(("resume_from_checkpoint", "overwrite_output_dir"), "is `ckpt_path` here: auto, last or a path"),
    **dict.fromkeys(("use_peft", "finetuning_type", "adapter"), "is a file of configs/adapter here, such as -c configs/adapter/lora.yaml"),
    **dict.fromkeys(("use_cpu", "no_cuda"), "is `trainer.accelerator: cpu` here"),
    **dict.fromkeys(("torch_dtype", "dtype"), "is `trainer.precision` here; bf16-mixed keeps the weights in float32, which small learning rates need"),
    **dict.fromkeys(
        ("load_in_4bit", "load_in_8bit", "quantization_bit", "trust_remote_code", "push_to_hub", "hub_model_id", "neftune_noise_alpha"),
        "is not supported here; leave it out",
    ),
    **dict.fromkeys(
        ("remove_unused_columns", "group_by_length", "dataset_num_proc", "preprocessing_num_workers", "dataset_kwargs", "do_train", "ddp_timeout"),
        "is not needed here; leave it out",
    ),
    "max_steps": "is `trainer.max_steps` here; the run ends there or with `trainer.max_epochs`, whichever comes first",
    "warmup_steps": "is `model.schedule.warmup_steps` here, together with `model.schedule.warmup_ratio: 0`",
    "weight_decay": "is `model.optimizer.weight_decay` here, which decays norms and biases too",
    "optim": "is `model.optimizer` here, a class such as torch.optim.AdamW",
    "seed": "is `seed_everything` here, and `data.batching.seed` for the order of rows and dropout",
    "run_name": "is the name of the folder `run` here",
    "bf16": "is `trainer.precision: bf16-mixed` here",
    "fp16": "is `trainer.precision: 16-mixed` here",
    "deepspeed": "is a file of configs/strategy here, such as -c configs/strategy/zero2.yaml",
    "fsdp": "is a file here, -c configs/strategy/fsdp2.yaml",
}
"""The answer to each name: the rest of a sentence that begins with it."""
SECTIONS: dict[str, type] = {
    **{"trainer": Trainer, "model": DomainSFT, "data": Records},
    **{"model.compute": Compute, "data.batching": Batching, "data.encoding": Encoding},
}
"""The class whose options stand under a key of a file."""
COMMANDS = ("fit", "validate", "test")
"""Commands that have these options; a sweep passes its words on without its name."""
REFUSED = re.compile(
    r"Subcommand '\w+' does not accept option '(?P<whole>[\w.]+)'|Group '(?P<group>\w+)' does not accept option '(?P<part>[\w.]+)'"
    r"|Parser key \"(?P<key>[\w.]+)\":.*?Option '(?P<option>\w+)' is not accepted(?!; did you mean)",
    re.DOTALL,
)
"""Words of a parser about an option that does not exist in a file."""


def explain_foreign(words: Sequence[str], message: str) -> str | None:
    """Answers all names of other programs on a command line and in its files, and own ones in the wrong place, if an error's message is about such a name.

    A key of a file that is nobody's name is answered with the file and with the keys that a file can have.
    """
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        return None
    refused = refused_names(message)
    places = {place: [name.replace("-", "_") for name in names] for place, _, names in given_options(words)}
    if any(answer_to(name) for name in refused):
        return join_answers({place: dict(filter(None, (answer_to(name) for name in names if is_meant(name, refused)))) for place, names in places.items()})
    key = next(iter(refused), "")
    file = next((place for place, names in places.items() if place and key in names), "")
    if not file or message.startswith("Parser key"):
        return None
    if "Subcommand '" in message and "did you mean" not in message:
        return f"{file}there is no option `{key}`; a file has the keys trainer, model, data, run, seed_everything and ckpt_path, as configs/base.yaml shows."
    return f"{file}{message}{'' if message.endswith('?') else '.'}"


def refused_names(message: str) -> list[str]:
    """The dotted names of the options that a parser's message refuses."""
    if (match := re.search(r"unrecognized arguments: ([^;]*)", message)) is not None:
        return [name.replace("-", "_") for name in re.findall(r"--([\w.-]+)", match[1])]
    if (match := REFUSED.search(message)) is None:
        return []
    return [".".join(filter(None, match.groups()))]


def is_meant(name: str, refused: Sequence[str]) -> bool:
    """Whether an option can be answered: of ``data``, whose class may be anybody's, only what was refused."""
    return name in refused or not name.startswith("data.")


def answer_to(name: str) -> tuple[str, str] | None:
    """The part of an option's dotted name that is answered, and its answer; None for a name that is nobody's, and for options that exist."""
    if name in ANSWERS:
        return name, ANSWERS[name]
    root, _, rest = name.partition(".")
    section, word = (root, rest.partition(".")[0]) if root in SECTIONS else ("", root)
    if not word or (section and word in option_names(SECTIONS[section])):
        return None
    answer = ANSWERS.get(word) or place_of(word)
    return (f"{section}.{word}".strip("."), answer) if answer else None


def place_of(word: str) -> str | None:
    """The answer to an option without its section; None for a word that several sections have, or none."""
    above = [section for section, part in SECTIONS.items() if word in option_names(part) and f"{section}.{word}" not in LINKED]
    if len(above) != 1:
        return None
    return f"belongs under `{above[0]}`" + (", in its `init_args`" if above[0] == "data" else "")
