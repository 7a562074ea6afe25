"""Turns errors into one sentence."""

import re
from collections.abc import Sequence

from lit_talr.cli.classes import FILES, failed_class, missing_class, unnamed_class
from lit_talr.cli.foreign import explain_foreign
from lit_talr.cli.parsers import PACKAGE
from lit_talr.cli.renamed import explain_renamed
from lit_talr.utils.errors import explain_lost_rank, explain_system_error, first_line, nearest

READABLE = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", **dict.fromkeys(("tuple", "list"), "a list, such as [a,b]")}
NOISE = (
    *("Expected a path but", "Does not validate", "Subtypes:", "Errors:", "Given value"),
    *("Expected a <class 'NoneType'>", "Expected a <class 'torch.Tensor'>"),
)
"""Beginnings of lines in a parser's message that help nobody."""


def explain(error: Exception, words: Sequence[str]) -> str | None:
    """The sentence for an error of a command line; None for errors that only a traceback explains."""
    if lost := explain_lost_rank(str(error)):
        return lost
    if type(error).__module__.startswith("wandb"):
        way_out = "`wandb login` once, or set the variable WANDB_MODE=offline"
        return f"`trainer.logger: WandbLogger`: wandb cannot begin ({first_line(error)}); {way_out}."
    if isinstance(error, (RuntimeError, ImportError)):
        return explain_library_error(str(error))
    message = explain_system_error(error) if isinstance(error, OSError) else str(error)
    answer = explain_renamed(words, message) or explain_foreign(words, message) or unnamed_class(message, words)
    return answer or explain_trainer(message, words) or one_sentence(message)


def explain_trainer(message: str, words: Sequence[str]) -> str | None:
    """The sentence for what is answered by a file of ``configs``; None for all others."""
    if match := re.search(r"invalid strategy name: `strategy='(.*?)'`", message):
        names = sorted(path.stem for path in (PACKAGE / "configs" / "strategy").glob("*.yaml"))
        near = nearest(match[1], names)[:1] or ["ddp"]
        return f"`trainer.strategy`: {match[1]} is not a strategy of Lightning; give the file of one, such as -c configs/strategy/{near[0]}.yaml."
    if "No supported gpu backend found" in message or "can not run on your system since the accelerator is not available" in message:
        named = [match for word in words if (match := re.search(r"configs/strategy/([\w-]+?)(-cpu)?\.yaml$|deepspeed_stage_([123])", word))]
        strategy = next((match[1] or f"zero{match[3]}" for match in named), "zero2")
        ways_out = f"on CPU ranks use -c configs/strategy/{strategy}-cpu.yaml, or `--trainer.accelerator cpu`"
        asked = match[1].lower() if (match := re.match(r"`(\w+?)Accelerator`", message)) else "gpu"
        return f"`trainer.accelerator: {asked}`, and no GPU is found here; {ways_out}."
    if match := re.search(r"arguments are required: (?:fit|validate|test)\.([\w.]+)", message):
        return f"`{match[1]}` is missing; give it by a file, such as -c {FILES.get(match[1], 'configs/base.yaml')}, or see configs/experiment for whole runs."
    if match := re.search(r"`val_check_interval` \((\d+)\) must be less than or equal to the number of the training batches \((\d+)\)", message):
        return (
            f"`trainer.val_check_interval` {match[1]} is a number of micro-batches, and an epoch has {match[2]}; give at most {match[2]}, a share of the epoch "
            "such as 0.5, or count across epochs by `--trainer.check_val_every_n_epoch null`."
        )
    if match := re.fullmatch(r"argument (\S+): expected one argument", message):
        return f"`{match[1]}` stands without a value; write one after it."
    return None


def one_sentence(message: str) -> str:
    """A parser's message without the types that it tried in vain; for a class that does not exist, with those that do."""
    message = re.sub(r"Call to compute_fn of link '.*?' (?:with args .*? )?failed: ", "", message, flags=re.DOTALL)
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    key = ".".join(dict.fromkeys(keys))
    option = f"`{key}`: " if key else ""
    if sentence := missing_class(message, key) or failed_class(message, key):
        return sentence
    if not keys and "Errors:" not in message:
        return " ".join(message.split())
    lines = [re.sub(r'^Parser key "[\w.]+":\s*', "", line.strip().removeprefix("- ")) for line in message.splitlines()]
    reasons = [line for line in lines if line and not line.startswith(NOISE)]
    if required := next((line.rpartition(": ")[2] for line in reasons if "arguments are required: " in line), None):
        return f"`{key}` needs `{required}`; give it, such as `--{key}.{required.split(',')[0]} VALUE`."
    if refused := next((line for line in reasons if re.match(r"Option '\S+' is not accepted", line)), None):
        return option + refused
    expected = expected_values("\n".join(reasons))
    value = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
    if key and "a number" in expected and value and value[1].strip().lstrip("+-.").lower() in ("inf", "infinity", "nan"):
        return f"`{key}` must be a finite number, got {value[1]}."
    if expected == [READABLE["list"]] and value and re.fullmatch(r"[\d\s,;:.-]+", value[1]):
        listed = re.fullmatch(r"-?[\d.]+(\s*,\s*-?[\d.]+)+", value[1].strip())  # only the brackets are missing
        expected = [f"a list of numbers, such as {f'[{listed[0]}]' if listed else '[3,4,5]'}"]
    if key and expected and value:
        return f"`{key}` must be {' or '.join(expected)}, got {value[1]}."
    last = next((index for index, line in enumerate(reasons) if not line.endswith(":")), 0)  # a line that ends so says no reason yet
    return option + " ".join(" ".join(reasons[: last + 1] or [message]).split())


def expected_values(reasons: str) -> list[str]:
    """The types that a parser expected, in words, then the choices of its literals."""
    types = [READABLE.get(name, name) for name in re.findall(r"^Expected a <class '(\w+)'>", reasons, re.MULTILINE)]
    return list(dict.fromkeys([*types, *re.findall(r"typing\.Literal\[(.*?)\]", reasons)]))


def explain_library_error(message: str) -> str | None:
    """The sentence for an error of torch or transformers that is no fault of the code; None for all others."""
    if "has been toggled on" in message or "doesn't seem to be installed" in message:
        return f"`model.compute.attention` is not installed here; install its package, or set another, such as sdpa ({' '.join(message.split())})."
    if "DataLoader worker" in message:
        return (
            "a process that prepares batches (`data.batching.num_workers`) has died, most often because memory or /dev/shm is full; "
            "take fewer, and continue with `--ckpt_path auto`."
        )
    if "Error(s) in loading state_dict" in message:
        return "`ckpt_path`: the checkpoint is of another model (its weights have other names or shapes); give the model, and the `model.adapter`, of its run."
    return None
