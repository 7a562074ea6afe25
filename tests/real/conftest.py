"""A real pretrained model, which every test here needs."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("LIT_TALR_REAL_MODEL") or Path(__file__).parents[2] / "models" / "smollm2-135m")


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of SmolLM2-135M-Instruct."""
    if not (FOLDER / "config.json").is_file():
        pytest.skip("no real model: `python -m benchmarks.real_model models/smollm2-135m` fetches one")
    return FOLDER
