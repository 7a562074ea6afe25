"""The configuration that ``fit`` reads from its words, without a run."""

from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lit_talr.cli.command_line import CLI, Parser, find_configs, refuse_linked
from lit_talr.cli.errors import one_sentence
from lit_talr.domains import DomainDataModule
from lit_talr.module import DomainSFT


class ParserOnly(CLI):
    """Makes the parser of ``fit`` and stops there."""

    def __init__(self) -> None:
        super().__init__(
            DomainSFT,
            DomainDataModule,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False},
            subclass_mode_data=True,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None: ...

    def _parse_ckpt_path(self) -> None: ...

    def _set_seed(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def after_instantiate_classes(self) -> None: ...


def fit_parser() -> Callable[[Sequence[str]], Namespace]:
    """Make a function that parses the words of ``lit-talr fit``; it refuses in one sentence what ``fit`` would refuse."""
    parser = ParserOnly().parser

    def parse(words: Sequence[str]) -> Namespace:
        files = find_configs(words)
        refuse_linked(files)
        try:
            return parser.parse_args(files)
        except ValueError as error:
            raise ValueError(one_sentence(str(error))) from error

    return parse
