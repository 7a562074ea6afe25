"""``python -m lit_talr`` and ``lit-talr``."""

import sys

from lit_talr import __version__
from lit_talr.overview import OVERVIEW


def main() -> None:
    """Run the command line of this process."""
    words = [word for word in sys.argv[1:] if word != "--debug"]
    if words in ([], ["-h"], ["--help"]):
        print(OVERVIEW)
    elif words == ["--version"]:
        print(f"lit-talr {__version__}")
    else:
        from lit_talr.cli import main as run

        run()


if __name__ == "__main__":
    main()
