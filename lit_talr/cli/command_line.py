"""The command line: ``lit-talr fit | validate | test -c CONFIG [-c CONFIG ...] [--key value ...]``, and ``lit-talr`` with one of ``VERBS``."""

import logging
import os
import re
import shlex
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import lightning
import torch
import transformers
import yaml
from jsonargparse import ArgumentParser, Namespace, auto_cli
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors import SafetensorError

import lit_talr.callbacks
import lit_talr.losses
import lit_talr.modeling.strategies  # noqa: F401
from lit_talr import __version__
from lit_talr.checkpoint.whole import check_checkpoint, kind, last_checkpoint, lock, optimizer_files, refuse_code, step_of
from lit_talr.cli.errors import of_library_error, one_sentence
from lit_talr.domains import DomainDataModule
from lit_talr.modeling.strategies import FSDP2Strategy, end_ranks, is_zero3
from lit_talr.module import DomainSFT
from lit_talr.utils.files import read_json, write_json

PACKAGE = Path(__file__).parents[1]
VERBS = {
    "curriculum": "curriculum",
    "demo": "cli.demo",
    "export": "checkpoint.export",
    "heatmap": "heatmap",
    "merge": "checkpoint.merge",
    "report": "report",
    "sweep": "sweep",
}
"""Subcommands that are functions, and the modules that hold them, imported on demand."""
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""Where launchers say which process this is: 0 in all that are set is the first one."""
DESCRIPTION = "Fine-tune language models on a domain without losing their general abilities. `lit-talr --help` lists all commands."

held = ExitStack()
"""What this process keeps to itself until the command ends."""


class OneSentence:
    """For parsers: answers with one sentence instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(message) from ex


class Parser(OneSentence, LightningArgumentParser):
    """Of the verbs that take a configuration."""


class VerbParser(OneSentence, ArgumentParser):
    """Of the verbs that are functions."""


class SaveConfig(SaveConfigCallback):
    """Keeps what ``fit`` was configured with, and the command, once training begins; a resumed run adds a file of its own."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, command: Sequence[str]) -> None:
        super().__init__(parser, config)
        self.command = shlex.join(["lit-talr", *command])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Not yet: a start that is refused does not use up the folder."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        resumes = len(list(folder.glob("config.resume-*.yaml")))
        self.config_filename = f"config.resume-{resumes + 1}.yaml" if (folder / "config.yaml").exists() else "config.yaml"
        self.config_filename = trainer.strategy.broadcast(self.config_filename)
        super().setup(trainer, pl_module, "fit")
        if trainer.is_global_zero:
            provenance = read_json(folder / "provenance.json")
            versions = {"lit_talr": __version__, "torch": torch.__version__, "transformers": transformers.__version__, "lightning": lightning.__version__}
            fit = {"command": self.command, "time": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions}
            write_json(folder / "provenance.json", {"fits": [*provenance.get("fits", []), fit]})


def command_line(words: Sequence[str]) -> "type[CLI]":
    """With the command that was typed alone, since the parser of each takes a third of a second to make; with all, where none was."""
    commands = CLI.subcommands()
    asked = {words[0]: commands[words[0]]} if words and words[0] in commands else commands

    class Asked(CLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return asked

    return Asked


class CLI(LightningCLI):
    """One module, any domain; a run is one folder, ``--run``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run", type=str, default="runs/run", help="Folder of the run: checkpoints, logs, answers and the exported model.")
        parser.link_arguments("run", "trainer.default_root_dir")
        parser.link_arguments(("model.pretrained", "model.tokenizer"), "data.init_args.tokenizer", compute_fn=tokenizer_name)
        parser.link_arguments(("model.revision", "model.tokenizer"), "data.init_args.tokenizer_revision", compute_fn=tokenizer_revision)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        hidden = {"verbose", "weights_only"}  # the table is Summary's; a checkpoint file never runs code
        return {verb: skipped | hidden for verb, skipped in LightningCLI.subcommands().items() if verb != "predict"}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        options = {"weights_only": True} if subcommand == "fit" else {"weights_only": True, "verbose": False}
        return {**super()._prepare_subcommand_kwargs(subcommand), **options}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Lightning would load hyper-parameters over the configuration here; our record is the configuration. Finds ``last``, and guards a used folder."""
        verb, config = self.config.subcommand, self.config[self.config.subcommand]
        run, pretrained = Path(config.run), config.model.pretrained
        if not config.run or (run.exists() and not run.is_dir()):
            raise ValueError(f"`run` must name a folder, new or of an earlier run, got {config.run!r}.")
        if config.ckpt_path == "last":
            config.ckpt_path = str(last_checkpoint(run))
        elif config.ckpt_path:
            check_checkpoint(Path(config.ckpt_path))
        if config.ckpt_path:
            refuse_code(Path(config.ckpt_path))
        elif verb == "fit" and (run / "config.yaml").exists():
            raise ValueError(f"`run`: {run} already holds a run; continue it with `--ckpt_path last`, or name another folder.")
        elif (run / "checkpoints").exists() and not (pretrained and Path(pretrained).resolve().is_relative_to(run.resolve())):
            raise ValueError(
                f"`run`: {run} holds a trained model, which this would not {verb}; ask for it with `--ckpt_path last`, or name another folder with `--run`."
            )
        if verb == "fit" and all(os.environ.get(name, "0") == "0" for name in RANKS):
            held.enter_context(lock(run))

    def after_instantiate_classes(self) -> None:
        if path := self._get(self.config, "ckpt_path"):
            check_strategy(Path(path), self.trainer)

    def before_fit(self) -> None:
        self.model.check(self.trainer)  # before the data is read, which can take long

    def before_test(self) -> None:
        self.model.check_generation(self.trainer)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self._get(self.config_init, "trainer")["logger"] is None:
            path = self._get(self.config_init, "ckpt_path")
            purge = step_of(Path(path)) if path and self.subcommand == "fit" else None  # hides what was logged after the checkpoint, and will be again
            kwargs["logger"] = TensorBoardLogger(self._get(self.config_init, "run"), name="", version="", purge_step=purge)
        return super().instantiate_trainer(**kwargs)


def check_strategy(path: Path, trainer: Trainer) -> None:
    """Refuse a checkpoint that another strategy wrote; of DeepSpeed also that of another number of ranks or, since it would not find its files, precision."""
    of, strategy = kind(path), trainer.strategy
    zero = isinstance(strategy, DeepSpeedStrategy)
    if of != ("ZeRO-3" if is_zero3(strategy) else "ZeRO-1 or ZeRO-2" if zero else "FSDP2" if isinstance(strategy, FSDP2Strategy) else "one process or DDP"):
        raise ValueError(f"`ckpt_path`: {path} is a checkpoint of {of}; give the strategy of its run, or `lit-talr export` it and start from the export.")
    if zero and (ranks := len(files := optimizer_files(path))) != trainer.world_size:
        raise ValueError(
            f"`ckpt_path`: {path} was written by {ranks} rank(s), and DeepSpeed reads it with as many only, not with {trainer.world_size}; "
            f"start {ranks}, or `lit-talr export` it and start from the export."
        )
    if zero and files[0].name.startswith("bf16") != str(trainer.precision).startswith("bf16"):
        raise ValueError(f"`ckpt_path`: {path} was written in another precision than {trainer.precision}; give `trainer.precision` as its run did.")


def tokenizer_name(pretrained: str | None, tokenizer: str | None) -> str:
    """The tokenizer is the model's own unless another is named."""
    if not (name := tokenizer or pretrained):
        raise ValueError("Give `model.pretrained` or `model.tokenizer` (a folder or hub name): the data needs a tokenizer.")
    return name


def tokenizer_revision(revision: str | None, tokenizer: str | None) -> str | None:
    """A revision belongs to the model's own repository."""
    return None if tokenizer else revision


def find_configs(args: Sequence[str]) -> list[str]:
    """Replaces ``-c configs/...`` by the file shipped with the package where the working folder has none."""
    words = [part for word in args for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    for flag, path in pairwise(words):
        if flag in ("-c", "--config") and not Path(path).is_file():
            shipped = PACKAGE / path
            if not shipped.is_file():
                raise ValueError(f"{path}: no such configuration file, neither here nor among those shipped in {PACKAGE / 'configs'}.")
            words[words.index(path)] = str(shipped)
    return words


def refuse_linked(words: Sequence[str]) -> None:
    """The data's tokenizer is the model's, and the trainer's folder the run; another beside them would be overruled, or refused without a reason."""
    if any(word.startswith("--trainer.default_root_dir") for word in words):
        raise ValueError("`--trainer.default_root_dir` is not an option of its own: it is the folder of the run, `--run`.")
    given = [word.split("=")[0] for word in words if re.match(r"--data\.(init_args\.)?tokenizer", word)]
    for path in [path for flag, path in pairwise(words) if flag in ("-c", "--config")]:
        try:
            config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: is not YAML ({error}).") from error
        if not isinstance(config, dict):
            raise ValueError(f"{path}: holds no settings, such as `trainer: {{max_epochs: 2}}`; write some, or leave it out.")
        data = config.get("data")
        parts = [part for part in (data, data.get("init_args")) if isinstance(part, dict)] if isinstance(data, dict) else []
        given += [f"{path}: data.{name}" for part in parts for name in part if str(name).startswith("tokenizer")]
    if given:
        raise ValueError(f"`{given[0]}` is not an option of its own: the tokenizer is the model's, or `model.tokenizer`.")


def refuse_repeated(words: Sequence[str]) -> None:
    """The parser would take the last one and say nothing; several values are one list."""
    flags = Counter(word.split("=")[0] for word in words if word.startswith("--"))
    if repeated := [flag for flag, count in flags.items() if count > 1]:
        raise ValueError(f"`{repeated[0]}` is given {flags[repeated[0]]} times; give several values as one list, such as {repeated[0]} [a,b].")


def quiet_libraries() -> None:
    """Hide what a user of this package can do nothing about; what it says itself is shown."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what DeepSpeed falls back to, with a warning
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()  # its retries; what fails in the end is said once
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # the plan is, without state
    warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
    warnings.filterwarnings("ignore", message=".*It is recommended to use .self.log.*sync_dist=True.*")  # what is logged is reduced already
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.distributed.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    own = logging.getLogger("lit_talr")
    own.setLevel(logging.INFO)
    own.handlers = [logging.StreamHandler()]  # to where standard error is now


def main(args: Sequence[str] | None = None) -> None:
    """Run a command line; bad input ends in one sentence and exit code 1, or in a traceback with ``--debug``."""
    typed = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in typed
    whole_words = {"allow_abbrev": False}  # a misspelt option is an error, not a guess
    try:
        quiet_libraries()
        words = [word for word in typed if word != "--debug"]
        if words and words[0] in VERBS:
            room = import_module(f"lit_talr.{VERBS[words[0]]}")
            verb, positional = getattr(room, words[0]), words[0] in ("curriculum", "heatmap")
            if words[0] == "sweep":  # most of its words are those of fit and test
                verb(words[1:], import_module("lit_talr.cli.fit_parser").fit_parser())
                return
            refuse_repeated(words)
            if words[0] == "report":  # its runs are bare words
                room.parse_report(words[1:], VerbParser(prog="lit-talr report", allow_abbrev=False))
                return
            auto_cli(verb, args=words[1:], prog=f"lit-talr {words[0]}", parser_class=VerbParser, allow_abbrev=False, as_positional=positional)
            return
        if words and not words[0].startswith("-") and words[0] not in CLI.subcommands():
            raise ValueError(f"there is no command `{words[0]}`; there are {', '.join([*CLI.subcommands(), *VERBS])}.")
        words = find_configs(words)
        refuse_linked(words)
        cli = command_line(words)
        cli(
            DomainSFT,
            DomainDataModule,
            save_config_callback=SaveConfig,
            save_config_kwargs={"command": typed},
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "prog": "lit-talr",
                "description": DESCRIPTION,
                "version": __version__,
                **whole_words,
                **dict.fromkeys(cli.subcommands(), whole_words),
            },
            subclass_mode_data=True,
            args=words,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
        end_ranks()
    except SIGTERMException:
        end_ranks()
        sys.exit(128 + signal.SIGTERM)
    except (ValueError, OSError, RuntimeError, ImportError, SafetensorError, MisconfigurationException) as error:
        sentence = of_library_error(str(error)) if isinstance(error, (RuntimeError, ImportError)) else one_sentence(str(error))
        if debug or sentence is None:
            raise
        rank = os.environ.get("LOCAL_RANK", "0")
        print(f"lit-talr{'' if rank == '0' else f' (rank {rank})'}: {sentence}", file=sys.stderr)
        sys.exit(1)
    finally:
        held.close()
