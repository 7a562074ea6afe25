"""The parser of a command whose other words are those of ``fit``."""

import argparse  # jsonargparse's leaves no unknown words to others
import re
from typing import NoReturn


class OwnOptions(argparse.ArgumentParser):
    """Refuses words with one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        if match := re.fullmatch(r"argument (\S+): invalid (int|float) value: (.*)", message):
            message = f"`{match[1].split('/')[0]}` must be a {'whole ' if match[2] == 'int' else ''}number, got {match[3]}."
        raise ValueError(message)
