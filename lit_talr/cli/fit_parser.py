"""Reads the configuration of ``fit`` from its words, without a run."""

from collections.abc import Callable, Sequence

from jsonargparse import Namespace, capture_parser

from lit_talr.cli.errors import explain
from lit_talr.cli.lightning_cli import run_lightning
from lit_talr.cli.parsers import refuse_linked, typed_names


def fit_parser(instantiates: bool = False) -> Callable[[Sequence[str]], Namespace]:
    """Makes a function that parses the words of ``lit-talr fit``; it refuses in one sentence what ``fit`` would refuse.

    Args:
        instantiates: Whether it returns module, data, callbacks and strategy in place of their configuration; the trainer stays a set of options.
    """
    parser = capture_parser(run_lightning, ["fit"], ["fit"])

    def parse(words: Sequence[str]) -> Namespace:
        refuse_linked(typed_names(words))
        try:
            config = parser.parse_args(["fit", *words])
            return (parser.instantiate(config) if instantiates else config).fit
        except ValueError as error:
            raise ValueError(explain(error, words)) from error

    return parse
