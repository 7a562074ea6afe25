"""What many tests share."""

from pathlib import Path

import pytest

from tests.helpers.fits import write_data


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and rows for ``tests.helpers.fits.fit``; nobody writes into it."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder
