"""The parser of a command whose other words are those of ``fit``."""

import argparse  # jsonargparse's leaves no unknown words to others
from typing import NoReturn


class OwnOptions(argparse.ArgumentParser):
    """Refuses words with one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)
