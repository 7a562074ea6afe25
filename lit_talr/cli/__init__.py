"""The command line."""

from lit_talr.cli.command_line import main

__all__ = ["main"]
