"""The configuration that ``fit`` reads from its words, without a run."""

from collections.abc import Callable, Sequence

from jsonargparse import Namespace, capture_parser

from lit_talr.cli.command_line import find_configs, main, refuse_linked
from lit_talr.cli.errors import one_sentence


def fit_parser() -> Callable[[Sequence[str]], Namespace]:
    """Make a function that parses the words of ``lit-talr fit``; it refuses in one sentence what ``fit`` would refuse."""
    parser = capture_parser(main, ["fit"])

    def parse(words: Sequence[str]) -> Namespace:
        files = find_configs(words)
        refuse_linked(files)
        try:
            return parser.parse_args(["fit", *files]).fit
        except ValueError as error:
            raise ValueError(one_sentence(str(error))) from error

    return parse
