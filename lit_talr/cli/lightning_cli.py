"""``fit``, ``validate`` and ``test``: Lightning's command line for one module and any domain."""

import json
import math
from argparse import SUPPRESS
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, OptimizerCallable
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.enums import LightningEnum

from lit_talr import __version__
from lit_talr.callbacks import Summary  # and by it all classes that a configuration names
from lit_talr.checkpoint.find import check_strategy
from lit_talr.cli.logs import continue_logs
from lit_talr.cli.machine import check_machine
from lit_talr.cli.parsers import ConfigFile, HelpAll, Parser, refuse_linked, typed_names
from lit_talr.cli.resume_with import check_resumed, entry_names, join_entries, option_words
from lit_talr.cli.run_folder import CKPT_PATHS, SaveConfig, begin_run, check_run, lock_run
from lit_talr.cli.words import forget_callbacks, join_numbers, refuse_repeated_keys, say_lacking
from lit_talr.domains import DomainDataModule
from lit_talr.modeling.strategies import report_lost_ranks, report_start
from lit_talr.module import DomainSFT
from lit_talr.training import own_samples  # noqa: F401  whose class a configuration names
from lit_talr.training.configuration import flatten
from lit_talr.utils.files import check_writable

yaml.SafeDumper.add_multi_representer(LightningEnum, lambda dumper, value: dumper.represent_str(str(value.value)))  # as the default of Timer's `interval`
DESCRIPTION = "Fine-tune language models on a domain without losing their general abilities. `lit-talr --help` lists all commands."


def run_lightning(words: Sequence[str], typed: Sequence[str]) -> None:
    """Runs ``fit``, ``validate`` or ``test``, or prints their help.

    Args:
        words: The command line.
        typed: The command line as the run's record shows it.
    """
    words = join_entries(join_numbers(words))
    refuse_linked(typed_names(words))
    refuse_repeated_keys(words)
    commands = CLI.subcommands()
    # The parser of each command takes a third of a second to build, so that the one that was typed is built alone.
    chosen = {words[0]: commands[words[0]]} if words and words[0] in commands else commands
    whole_words = {"allow_abbrev": False}  # a misspelt option is an error, not a guess

    class ChosenCLI(CLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return chosen

    ChosenCLI(
        DomainSFT,
        DomainDataModule,
        save_config_callback=SaveConfig,
        save_config_kwargs={"command": typed},
        seed_everything_default=0,
        parser_kwargs={"prog": "lit-talr", "description": DESCRIPTION, "version": __version__, **whole_words, **dict.fromkeys(chosen, whole_words)},
        subclass_mode_data=True,
        args=list(words),
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
    )


class CLI(LightningCLI):
    """Trains and tests one module on any domain; a run is one folder, ``--run``."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = Parser(dump_header=[f"lightning.pytorch=={lightning.__version__}"], **kwargs)
        parser.add_argument("--help-all", action=HelpAll, nargs=0, default=SUPPRESS, help="Show the Trainer's options too, and exit.")
        parser.add_argument("-c", "--config", action=ConfigFile, help="Path to a configuration file in json or yaml format.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run", type=str, default="runs/run", help="Folder of the run: checkpoints, logs, answers and the exported model.")
        parser.add_argument(
            "--resume_with",
            type=list[str],
            default=[],
            help="With --ckpt_path: an option changed on purpose, such as model.optimizer.lr=0.05; may be repeated.",
        )
        parser.link_arguments("run", "trainer.default_root_dir")
        parser.link_arguments(("model.pretrained", "model.tokenizer"), "data.init_args.tokenizer", compute_fn=tokenizer_name)
        parser.link_arguments(("model.revision", "model.tokenizer"), "data.init_args.tokenizer_revision", compute_fn=tokenizer_revision)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        hidden = {"verbose", "weights_only"}  # Summary prints the table; a checkpoint file never runs code
        return {verb: skipped | hidden for verb, skipped in LightningCLI.subcommands().items() if verb != "predict"}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser._option_string_actions["--ckpt_path"].help = f"The checkpoint of the run: {CKPT_PATHS[subcommand].replace('`', '')}."
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(forget_callbacks(args))
        if self.config.subcommand == "fit" and (entries := self.config.fit.resume_with) and f"--resume_with={json.dumps(entries)}" not in args:
            entry_names(entries)
            self.config = parser.parse_args([*forget_callbacks(args), *option_words(entries)])  # those of a file, such as config.resume-1.yaml
        say_lacking(args)

    def _parse_ckpt_path(self) -> None:
        """Checks the run's folder; Lightning would load hyper-parameters over the configuration, which is our record."""
        config, verb = self.config[self.config.subcommand], self.config.subcommand
        check_machine(config)
        self.held_checkpoint = check_run(config, verb)
        if verb == "fit":
            check_resumed(config)

    def before_instantiate_classes(self) -> None:
        optimizer = self._get(self.config, "model").optimizer
        rate = optimizer and optimizer.get("init_args", {}).get("lr")
        if isinstance(rate, float) and not 0 < rate < math.inf:
            raise ValueError(f"`model.optimizer.lr` must be positive and finite, got {rate:g}; give a learning rate such as 1e-6.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self._get(self.config_init, "trainer")["logger"] in (None, True):
            kwargs["logger"] = TensorBoardLogger(self._get(self.config_init, "run"), name="", version="")
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(Path(self.trainer.default_root_dir, "checkpoints"))  # Lightning's own would be a logger's folder
        if path := self._get(self.config, "ckpt_path"):
            check_strategy(Path(path), self.trainer)
        continue_logs(self.trainer, self.config.subcommand, path)
        if self.trainer.world_size > 1:
            report_start(self.trainer.strategy, self.trainer.world_size)
            report_lost_ranks()

    def _run_subcommand(self, subcommand: str) -> None:
        locks = subcommand == "fit" and self.trainer.is_global_zero
        run = Path(self.trainer.default_root_dir)
        with lock_run(run) if locks else self.held_checkpoint or nullcontext():
            if locks:
                begin_run(run, self._get(self.config, "ckpt_path"))
            elif self.trainer.is_global_zero:
                check_writable(run)
            super()._run_subcommand(subcommand)

    def before_fit(self) -> None:
        plain = yaml.safe_load(self._parser("fit").dump(self.config["fit"], skip_unset=False))
        self.model.record.given = flatten("", plain)
        self.model.record.resume_with = entry_names(plain["resume_with"])
        self.model.check(self.trainer)  # before the data is read, which can take long
        try_optimizer(self.model.optimizer)

    def before_test(self) -> None:
        self.model.check_generation(self.trainer)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        is_printed = any(isinstance(callback, Summary) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        options = {"weights_only": True} if subcommand == "fit" else {"weights_only": True, "verbose": not is_printed}
        return {**super()._prepare_subcommand_kwargs(subcommand), **options}


def try_optimizer(optimizer: OptimizerCallable) -> None:
    """Makes the optimizer for two small weights, so that it can refuse its options before anything is loaded.

    Raises:
        ValueError: Its own.
    """
    try:
        optimizer([torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2,))])
    except ValueError as error:
        if str(error).startswith("Invalid"):  # as torch's optimizers begin; other errors are about the weights, which are not these
            raise ValueError(f"`model.optimizer`: {error}; correct that option.") from error


def tokenizer_name(pretrained: str | None, tokenizer: str | None) -> str:
    """The tokenizer is the model's own unless another is named."""
    if not (name := tokenizer or pretrained):
        raise ValueError("Give `model.pretrained` or `model.tokenizer` (a folder or hub name): the data needs a tokenizer; configs/experiment has whole runs.")
    return name


def tokenizer_revision(revision: str | None, tokenizer: str | None) -> str | None:
    """A revision belongs to the model's own repository."""
    return None if tokenizer else revision
