"""The command line: ``lit-talr fit | validate | test -c CONFIG [-c CONFIG ...] [--key value ...]``, and ``lit-talr`` with one of ``VERBS``."""

import logging
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib import import_module

import huggingface_hub
import torch
import transformers
from jsonargparse import auto_cli
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors import SafetensorError

from lit_talr.cli.errors import explain
from lit_talr.cli.fit_parser import fit_parser
from lit_talr.cli.lightning_cli import CLI, run_lightning
from lit_talr.cli.parsers import VerbParser
from lit_talr.cli.words import refuse_dashes
from lit_talr.utils.errors import nearest

VERBS = {
    "curriculum": "curriculum",
    "demo": "cli.demo",
    "diagnose": "diagnose",
    "estimate": "estimate",
    "export": "checkpoint.export",
    "heatmap": "heatmap",
    "merge": "checkpoint.merge",
    "report": "report",
    "sweep": "sweep",
}
"""Subcommands that are functions, and their modules, imported on demand."""
ERRORS = (ValueError, OSError, RuntimeError, ImportError, SafetensorError, MisconfigurationException)
"""Errors that a user can cause."""
LOGGERS = {"wandb.errors": "UsageError", "mlflow.exceptions": "MlflowException"}
"""Such errors of loggers, by their modules."""
IGNORED = (
    "does not have many workers",
    "Checkpoint directory .* exists and is not empty",
    "your dataloader is not resumable",  # the batch plan is, without state
    "TypedStorage is deprecated",
    "lr_scheduler.step.*before.*optimizer.step",
    "It is recommended to use .self.log.*sync_dist=True",  # what is logged is reduced already
    "torch.distributed.*is deprecated",
    "isinstance.treespec, LeafSpec",
)
"""Warnings of libraries."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command line; bad input ends in one sentence and exit code 1, or in a traceback with ``--debug``."""
    typed = list(sys.argv[1:] if args is None else args)
    words = [word for word in typed if word != "--debug"]
    try:
        quiet_libraries()
        refuse_dashes(words)
        if words and words[0] in VERBS:
            run_verb(words[0], words[1:])
        elif words and words[0].startswith("-") and len(words) > 1 and not {*words}.intersection(CLI.subcommands()):
            raise ValueError(
                f"`{words[0]}`: the command comes first, such as `lit-talr fit {words[0]} ...`; there are {', '.join([*CLI.subcommands(), *VERBS])}."
            )
        elif words and not words[0].startswith("-") and words[0] not in CLI.subcommands():
            commands = [*CLI.subcommands(), *VERBS]
            near = "".join(f"did you mean `{name}`? T" for name in nearest(words[0], commands)[:1]) or "t"
            raise ValueError(f"there is no command `{words[0]}`; {near}here are {', '.join(commands)}.")
        else:
            run_lightning(words, typed)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)
    except user_errors() as error:
        sentence = explain(error, words)
        if "--debug" in typed or sentence is None:
            raise
        rank = os.environ.get("LOCAL_RANK", "0")
        print(f"lit-talr{'' if rank == '0' else f' (rank {rank})'}: {sentence}", file=sys.stderr)
        sys.exit(1)


def user_errors() -> tuple[type[Exception], ...]:
    """Errors that a user can cause, with those of the loggers that are imported."""
    return (*ERRORS, *(vars(sys.modules[module])[name] for module, name in LOGGERS.items() if module in sys.modules))


def run_verb(name: str, words: list[str]) -> None:
    """Runs a subcommand that is a function."""
    module = import_module(f"lit_talr.{VERBS[name]}")
    if name == "sweep":  # which passes most words on to fit and test
        module.sweep(words, fit_parser())
        return
    if name == "estimate":  # likewise, to fit
        module.estimate(words, fit_parser(instantiates=True))
        return
    refuse_repeated(words)
    if name == "report":  # whose runs are bare words
        module.parse_report(words, VerbParser(prog="lit-talr report", allow_abbrev=False))
        return
    positional = name in ("curriculum", "diagnose", "heatmap")
    auto_cli(getattr(module, name), args=words, prog=f"lit-talr {name}", parser_class=VerbParser, allow_abbrev=False, as_positional=positional)


def refuse_repeated(words: Sequence[str]) -> None:
    """Refuses an option that is given twice, of which the parser would use the last."""
    for flag, count in Counter(word.split("=")[0] for word in words if word.startswith("--")).items():
        if count > 1:
            raise ValueError(f"`{flag}` is given {count} times; give several values as one list, such as {flag} [a,b].")


def quiet_libraries() -> None:
    """Hides messages of libraries that a user of this package can do nothing about, and sends its own to standard error."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed's own fallback, which warns
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()  # its retries; the final failure is reported once
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=f".*{message}")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    own = logging.getLogger("lit_talr")
    own.setLevel(logging.INFO)
    own.handlers = [logging.StreamHandler()]  # the present standard error, which may have changed
