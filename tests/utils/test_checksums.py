import logging
import os
import time
from pathlib import Path

import pytest
from xxhash import xxh3_128

from lit_talr.utils import checksums
from lit_talr.utils.checksums import CHECKED, find_fault, hash_file


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECKED, "")


class Compare:
    """Counts how often it reads."""

    def __init__(self, fault: str | None = None) -> None:
        self.fault, self.count = fault, 0

    def __call__(self, path: Path) -> str | None:
        self.count += 1
        path.stat()
        return self.fault


def old_file(path: Path, text: str = "a") -> Path:
    """A file whose last change can be told from the next, by a clock that ticks every few milliseconds."""
    path.write_text(text)
    time.sleep(1.05)
    return path


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_the_hash_is_that_of_the_bytes(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    assert hash_file(tmp_path / "a").digest() == xxh3_128(content).digest()
    assert hash_file(tmp_path / "a", size // 2).digest() == xxh3_128(content[: size // 2]).digest()


def test_what_is_whole_is_read_once_until_it_changes(tmp_path: Path) -> None:
    path, compare = old_file(tmp_path / "a"), Compare()
    assert [find_fault(path, compare), find_fault(path, compare)] == [None, None] and compare.count == 1
    assert [find_fault(tmp_path, compare), find_fault(tmp_path, compare)] == [None, None] and compare.count == 2
    path.write_text("b")
    assert find_fault(path, compare) is None and find_fault(tmp_path, compare) is None and compare.count == 4


@pytest.mark.slow
def test_a_fault_and_a_fresh_file_are_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    compare = Compare()
    assert [find_fault(tmp_path / "a", compare), find_fault(tmp_path / "a", compare)] == [None, None] and compare.count == 2
    faulty = Compare("lacks b")
    path = old_file(tmp_path / "b")
    assert [find_fault(path, faulty), find_fault(path, faulty)] == ["lacks b"] * 2 and faulty.count == 2


@pytest.mark.slow
def test_a_sweep_does_not_outgrow_the_environment(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).write_text("a")
    time.sleep(1.05)
    for number in range(100):
        find_fault(tmp_path / str(number), Compare())
    assert len(os.environ[CHECKED].split()) == checksums.NUM_STATES


def test_a_file_that_cannot_be_read_is_at_fault(tmp_path: Path) -> None:
    assert find_fault(tmp_path / "gone", Compare()) == "cannot be read (No such file or directory)"


def test_long_reading_is_announced_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "lit_talr")
    (tmp_path / "a").write_text("a")
    find_fault(tmp_path, Compare())
    assert not caplog.text
    monkeypatch.setattr(checksums, "SECONDS", 0.01)

    def slow(path: Path) -> None:
        time.sleep(0.2)

    find_fault(tmp_path, slow)
    assert [record.getMessage() for record in caplog.records] == [f"Checking {tmp_path} ..."]
