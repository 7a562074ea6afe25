"""``python -m lit_talr`` and ``lit-talr``."""

import sys

from lit_talr import __version__
from lit_talr.overview import OVERVIEW


def main() -> None:
    """Run the command line of this process."""
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        print(OVERVIEW)
    elif sys.argv[1:] == ["--version"]:
        print(f"lit-talr {__version__}")
    else:
        from lit_talr.cli import main as run

        run()


if __name__ == "__main__":
    main()
