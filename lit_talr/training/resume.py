"""Comparing a run with the one whose checkpoint it continues, option by option."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from torch import Tensor

from lit_talr.training.configuration import Options, describe
from lit_talr.utils.weight_files import BASE_HASH, fingerprint

WHERE = "a place; what lies there is compared by its content"
HOW = "memory and speed; the gradient is the same up to rounding"
LENGTH = "a run may be extended or shortened; every step has the rate of the schedule in force"
WHEN = "when something is measured or written, not what is trained"
SHOWN = "what is shown and logged"
LAYOUT = "the layout; a step has the same gradient however it is split, unless the loss depends on the split"
MAY_DIFFER = {
    **dict.fromkeys(("run", "ckpt_path", "model.pretrained", "model.revision", "model.tokenizer"), WHERE),
    "data": "where rows come from and how they are read; the rows are compared by their tokens",
    **dict.fromkeys(("trainer.max_epochs", "trainer.max_steps", "trainer.min_epochs", "trainer.min_steps", "trainer.max_time"), LENGTH),
    **dict.fromkeys(("trainer.val_check_interval", "trainer.check_val_every_n_epoch", "trainer.num_sanity_val_steps"), WHEN),
    "trainer.callbacks": "they watch; those with a state compare their own settings",
    **dict.fromkeys(("trainer.logger", "trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.profiler"), SHOWN),
    **dict.fromkeys(("trainer.enable_autolog_hparams", "trainer.model_registry", "trainer.barebones", "trainer.enable_checkpointing"), SHOWN),
    **dict.fromkeys(("trainer.detect_anomaly", "trainer.inference_mode"), "checks and speed; no number changes"),
    **dict.fromkeys(("trainer.deterministic", "trainer.benchmark", "model.compute"), HOW),
    **dict.fromkeys(("trainer.limit_test_batches", "trainer.limit_predict_batches"), "nothing of it is trained or selected"),
    "trainer.accumulate_grad_batches": "it follows from the batching, and any other value is refused",
    "model.non_finite": "what to do with steps that have not been yet",
    "model.bf16_weights": "a permission; the precision itself must be equal",
    **dict.fromkeys(("data.batching.eval_batch_size", "data.batching.num_workers"), HOW),
    **dict.fromkeys(("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator"), LAYOUT),
    **dict.fromkeys(("data.batching.micro_batch_size", "data.batching.micro_batch_tokens", "data.batching.packing"), LAYOUT),
    "resume_with": "it names what is changed on purpose",
}
"""Options that a resumed run may have otherwise, with all options below them, and why. Every other option must be equal."""
EQUAL_ALL_THE_SAME = ("data.batching", "data.replay.share", "data.held_out")
"""Options that must be equal although those above them may differ; the longest name decides."""
SHAPES = "the checkpoint's weights would not fit"
STATE = "the optimizer's state in the checkpoint is of the old one"
POSITION = "the position in the data follows from the number of steps"
FIXED = {
    **dict.fromkeys(("model.adapter", "model.architecture"), SHAPES),
    "model.optimizer": STATE,
    **{f"model.optimizer.{name}": STATE for name in ("amsgrad", "centered", "fused", "foreach", "capturable", "differentiable")},
    **dict.fromkeys(("data.batching.batch_size", "data.replay.share"), POSITION),
    "data.held_out": "rows that it was trained on would be set aside, or the other way round",
}
"""Options that a run cannot change on purpose either, and why."""
MANY = 5
"""Differences that a sentence names."""


class Change(NamedTuple):
    """An option that a resumed run has otherwise than its checkpoint."""

    name: str
    before: Any
    now: Any


def why_may_differ(name: str, invariant: bool = True) -> str | None:
    """The reason why an option may differ, by the longest name in the table that is its own or above it; None if it must be equal."""
    while name:
        if name in EQUAL_ALL_THE_SAME:
            return None
        if name in MAY_DIFFER:
            return MAY_DIFFER[name] if invariant or MAY_DIFFER[name] != LAYOUT else None
        name = name.rpartition(".")[0]
    return None


def why_fixed(name: str) -> str | None:
    """The reason why an option cannot be changed on purpose; None if it can."""
    if " " in name:
        return "it is what the run has learned from"
    above = next((tree for tree in ("model.adapter", "model.architecture") if is_within(name, tree)), name)
    return FIXED.get(above)


def is_within(name: str, above: str) -> bool:
    return name == above or name.startswith(f"{above}.")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Options of two runs that differ; of a class that differs its name alone, unless another rule holds for an option of it.

    Where a command line made one of them and Python the other, those that both know. An option that one does not have is None.
    """
    same_kind = ("seed_everything" in before) == ("seed_everything" in now)
    names = before.keys() | now.keys() if same_kind else before.keys() & now.keys()
    found: dict[str, Change] = {}
    for name in sorted(names):  # an object comes before its options
        above = [other for other in found if is_within(name, other) and why_may_differ(other) == why_may_differ(name)]
        if not above and not is_same(before.get(name), now.get(name), name.startswith("trainer.limit_")):
            found[name] = Change(name, before.get(name), now.get(name))
    return list(found.values())


def is_same(before: Any, now: Any, counts: bool = False) -> bool:
    """Whether two values are equal; where whole numbers count batches and others are shares, 1 is not 1.0."""
    return (before == now and not counts) or repr(before) == repr(now)  # NaN is not equal to itself


def check_options(
    before: Options, now: Options, resume_with: Collection[str] = (), changes: Sequence[Mapping[str, Any]] = (), split_matters: str | None = None
) -> list[Change]:
    """Refuses to continue another run; returns the options that are changed on purpose.

    Args:
        before: Options of the checkpoint's run.
        now: Options of this run.
        resume_with: Names of options that may differ, each with all below it.
        changes: Changes of earlier resumes, which may be named again.
        split_matters: The loss, where it depends on how a step is split.

    Raises:
        ValueError: Naming the options, both values and the way out.
    """
    found = differences(before, now)
    for name in resume_with:
        check_changeable(name, found, now, changes)
    changed = [change for change in found if any(is_within(change.name, name) for name in resume_with)]
    refused = [change for change in found if change not in changed and why_may_differ(change.name, split_matters is None) is None]
    if refused:
        raise ValueError(refusal(refused, split_matters))
    return changed


def check_changeable(name: str, found: Sequence[Change], now: Options, changes: Sequence[Mapping[str, Any]]) -> None:
    """Refuses to change an option on purpose that cannot be changed, or that does not differ.

    Raises:
        ValueError: Naming the option.
    """
    if not any(is_within(option, name) for option in (*now, *(change.name for change in found))):
        raise ValueError(f"`--resume_with {name}`: there is no such option; name one of the configuration, such as model.optimizer.lr.")
    within = [change.name for change in found if is_within(change.name, name)]
    if reasons := [reason for option in (name, *within) if (reason := why_fixed(option))]:
        raise ValueError(f"`--resume_with {name}` cannot change a run that has begun: {reasons[0]}; start a new run.")
    again = any(is_within(change["name"], name) and is_same(change["now"], now.get(change["name"])) for change in changes)
    if not (within or again):
        raise ValueError(f"`--resume_with {name}` changes nothing: the checkpoint's run has {shown(now.get(name))} too; leave it out.")


def refusal(refused: Sequence[Change], split_matters: str | None, way_out: str | None = None) -> str:
    """The sentence about options that differ; the way out is to resume otherwise, unless another is given."""
    facts = []
    for name, before, now in refused[:MANY]:
        two = (before, now) if short(before) == short(now) else (short(before), short(now))
        layout = why_may_differ(name) == LAYOUT
        facts.append(f"its {name} is {shown(two[0])}, here {shown(two[1])}" + (f" ({split_matters} depends on how a step is split)" if layout else ""))
    more = f"; and {len(refused) - MANY} more" if len(refused) > MANY else ""
    if way_out:
        return f"The checkpoint is of another run: {'; '.join(facts)}{more}; {way_out}."
    changeable = [change for change in refused[:MANY] if why_fixed(change.name) is None]
    words = " ".join(f"--resume_with {change.name}={shown(change.now)}" for change in changeable)
    pronoun = "it" if len(refused) == 1 else "them" if len(changeable) == len(refused) else "what can be changed"
    way = f" change {pronoun} on purpose with `{words}`," if changeable else ""
    return f"The checkpoint is of another run: {'; '.join(facts)}{more}; resume with what it was started with,{way} or start a new run."


def short(value: Any) -> Any:
    """A class by the last part of its name."""
    return value.rpartition(".")[2] if isinstance(value, str) and re.fullmatch(r"(\w+\.)+[A-Z]\w*", value) else value


def shown(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def check_same(name: str, loaded: Any, current: Any) -> None:
    """Refuses to resume with another value."""
    if loaded != current:
        raise ValueError(f"The checkpoint is of another run: its {name} is {loaded}, here {current}; resume with what it was started with, or start a new run.")


def check_model(checkpoint: Mapping[str, Any], module: Any, trainer: Trainer) -> None:
    """Refuses a checkpoint of another model, by its adapters and the first tensor whose shape differs.

    Args:
        checkpoint: As Lightning loads it; DeepSpeed keeps its weights elsewhere.
        module: The module that loads it.
        trainer: Knows the checkpoint's path, and whether it is continued or only read.

    Raises:
        ValueError: Naming what differs; for a checkpoint that does not say what run it is of.
    """
    if "configuration" not in checkpoint:
        raise ValueError("The checkpoint does not say which run it is of: an older version wrote it; `lit-talr export` it, and start from the export.")
    loaded = {name: value for name, value in checkpoint["configuration"].items() if is_within(name, "model.adapter")}
    if found := differences(loaded, describe("model.adapter", module.adapter)):
        raise ValueError(refusal(found, None, way_to_read(trainer)))
    if module.adapter is not None and (way_out := way_to_read(trainer)):  # where it is continued, all options are compared
        here = fingerprint(module.source.folder)[:16]
        if found := differences({BASE_HASH: checkpoint["configuration"][BASE_HASH]}, {BASE_HASH: here}):
            raise ValueError(refusal(found, None, way_out))
    shapes = {name: value.shape for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    for name, value in checkpoint.get("state_dict", {}).items():
        if isinstance(value, Tensor) and shapes.get(name) != value.shape:
            raise ValueError(
                f"The checkpoint is of another model: its `{name}` is {list(value.shape)}, here {list(shapes.get(name, []))}; "
                f"{way_to_read(trainer) or 'give the model it was trained with'}."
            )


def way_to_read(trainer: Trainer) -> str | None:
    """The way out where a checkpoint of another run is not continued but evaluated: the configuration of its own run."""
    if trainer.state.fn is None or trainer.state.fn == "fit":
        return None
    config = Path(str(trainer.ckpt_path)).parent.parent / "config.yaml"
    return f"{trainer.state.fn.value} it {f'by `-c {config}`, the configuration of its run' if config.is_file() else 'by the configuration of its run'}"
