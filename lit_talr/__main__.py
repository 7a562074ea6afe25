"""``python -m lit_talr`` and ``lit-talr``."""

from lit_talr.cli import main

if __name__ == "__main__":
    main()
