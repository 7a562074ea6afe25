"""Fine-tune language models on a domain without losing their general abilities."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("lit_talr")
except PackageNotFoundError:  # run from an unpacked wheel or a bare checkout
    __version__ = "unknown"
