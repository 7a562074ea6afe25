"""What takes long is said once, and what does not is not."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.utils.locks import Lock, alone
from lit_talr.utils.waiting import fetching, on_rank_zero, reported, waiting_for_ranks
from lit_talr.utils.weight_files import model_folder


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("lit_talr.utils.waiting.SECONDS", 0.05)
    caplog.set_level(logging.WARNING, "lit_talr")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def wait_for_a_line(caplog: pytest.LogCaptureFixture) -> None:
    pause = threading.Event()
    for _ in range(200):
        if caplog.records:
            return
        pause.wait(0.02)


def test_a_long_wait_is_one_line_and_a_short_one_none(caplog: pytest.LogCaptureFixture) -> None:
    with reported(lambda: "nothing"):
        pass
    with waiting_for_ranks("the other ranks, which sleep"):
        wait_for_a_line(caplog)
    (line,) = messages(caplog)
    assert line.startswith("Waiting for the other ranks, which sleep; ") and "end all" in line


@pytest.mark.parametrize(("is_zero", "whom"), [(True, "the other ranks; "), (False, "rank 0, which reads it; ")])
def test_a_rank_does_not_wait_for_itself(caplog: pytest.LogCaptureFixture, is_zero: bool, whom: str) -> None:
    strategy = SimpleNamespace(broadcast=lambda outcome: wait_for_a_line(caplog) or outcome)
    trainer: Any = SimpleNamespace(is_global_zero=is_zero, strategy=strategy)
    assert on_rank_zero(trainer, lambda: threading.Event().wait(0.1) or 7, "reads it") == (7 if is_zero else None)
    (line,) = messages(caplog)
    assert line.startswith(f"Waiting for {whom}")


def test_of_many_ranks_two_say_it(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, rank in ("SLURM_PROCID", "3"), ("RANK", "2"), ("RANK", "1"):
        monkeypatch.setenv(variable, rank)
        with reported(lambda rank=rank: f"rank {rank}"):  # type: ignore[misc]
            threading.Event().wait(0.15)
    assert messages(caplog) == ["Waiting for rank 1."]


def test_a_download_is_said_and_a_folder_is_none(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with fetching(str(tmp_path)):
        threading.Event().wait(0.1)
    assert messages(caplog) == []
    with fetching("owner/name"):
        wait_for_a_line(caplog)
    assert messages(caplog) == ["Waiting for owner/name from the hub or its cache; Ctrl-C ends this, and with HF_HUB_OFFLINE=1 only the cache is read."]


@pytest.mark.parametrize("fetch", [load_tokenizer, model_folder])
def test_a_download_that_a_variable_forbids_is_answered_with_it(monkeypatch: pytest.MonkeyPatch, fetch: Callable[[str], object]) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="it is not in the cache, and HF_HUB_OFFLINE=1 forbids the download: unset that variable"):
        fetch("owner/nothing")


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_a_cache_that_is_no_folder_is_answered_with_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "file" / "hub"))
    with pytest.raises(ValueError, match=f"the variable {variable} must name a folder, got {tmp_path}/file/hub; correct it, or unset it"):
        load_tokenizer("owner/nothing")


def test_a_lock_that_is_waited_for_is_named(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    entered = threading.Event()

    def enter() -> None:
        with alone(tmp_path / "lock"):
            entered.set()

    with Lock(tmp_path / "lock"):
        thread = threading.Thread(target=enter)
        thread.start()
        wait_for_a_line(caplog)
        assert not entered.is_set()
    thread.join(10)
    (line,) = messages(caplog)
    assert entered.is_set() and f"the lock {tmp_path / 'lock'}, which another process holds" in line and "fuser" in line
