import os
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from lit_talr.data import token_cache
from lit_talr.data.encoding import ChatEncoder, Encoded, Encoding, TooLong
from lit_talr.data.example import Example
from lit_talr.data.token_cache import content_key, encode_many, encode_row, read
from lit_talr.losses import Standard
from tests.helpers.fits import fit, write_data
from tests.helpers.tiny import byte_tokenizer

EXAMPLES = [  # of 4 to 71 tokens; the tenth is too long even without its prompt
    Example.from_prompt("?" * (row % 7 * 9), "!" * (60 if row == 9 else row + 1), meta={"where": f"rows.csv: row {row + 1}"}) for row in range(11)
]


def encoder(too_long: str = "truncate_prompt", max_length: int = 40) -> ChatEncoder:
    return ChatEncoder(byte_tokenizer(), Encoding(max_length=max_length, too_long=too_long))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "PIECE", 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)


@pytest.fixture
def never_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(token_cache, "encode_row", refuse)


def in_words(rows: list[Encoded | TooLong]) -> list[object]:
    return [row.num_tokens if isinstance(row, TooLong) else (row.input_ids.tolist(), row.supervised.tolist(), row.truncated) for row in rows]


def test_processes_give_what_one_gives_in_order_and_so_does_the_file(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    alone = [encode_row(encoder(), example) for example in EXAMPLES]
    assert 0 < sum(isinstance(row, TooLong) for row in alone) < sum(isinstance(row, Encoded) and row.truncated > 0 for row in alone) < 11
    assert in_words(encode_many(encoder(), EXAMPLES, tmp_path, "", show=False)) == in_words(alone)
    request.getfixturevalue("never_encoded")
    kept = encode_many(encoder(), EXAMPLES, tmp_path, "", show=False)
    assert in_words(kept) == in_words(alone)
    assert {(row.input_ids.dtype, row.supervised.dtype) for row in kept if isinstance(row, Encoded)} == {(np.dtype("int32"), np.dtype("bool"))}


@pytest.mark.parametrize("other", [{"max_length": 41}, {"too_long": "drop"}])
def test_other_options_or_texts_are_encoded_anew(tmp_path: Path, other: dict[str, object]) -> None:
    encode_many(encoder(), EXAMPLES, tmp_path, "", show=False)
    encode_many(encoder(**other), EXAMPLES, tmp_path, "", show=False)  # type: ignore[arg-type]
    encode_many(encoder(), EXAMPLES[::-1], tmp_path, "", show=False)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_is_not_whole_is_made_again(tmp_path: Path) -> None:
    first, key = encode_many(encoder(), EXAMPLES, tmp_path, "", show=False), content_key(encoder(), EXAMPLES)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for broken in (whole[:-7], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(broken)
        assert read(file, key) is None
        assert in_words(encode_many(encoder(), EXAMPLES, tmp_path, "", show=False)) == in_words(first)
        assert in_words(read(file, key) or []) == in_words(first)


def test_where_it_cannot_be_kept_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert len(encode_many(encoder(), EXAMPLES, tmp_path / "file" / "folder", "", show=False)) == 11
    assert "Tokens of 11 rows could not be kept" in caplog.text


def test_a_row_that_is_wrong_is_named_from_whichever_process(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows.csv: row 5: This has \d+ tokens, more than the 40 allowed"):
        encode_many(encoder("error"), EXAMPLES, tmp_path, "", show=False)
    wrong = [*EXAMPLES[:8], Example.from_prompt("?", " ", meta={"where": "rows.csv: row 9"})]
    with pytest.raises(ValueError, match="rows.csv: row 9: Turn 1 has an empty answer"):
        encode_many(encoder(), wrong, tmp_path, "", show=False)
    assert not list(tmp_path.iterdir())


def test_a_turn_without_a_role_is_named(tmp_path: Path) -> None:
    wrong = [*EXAMPLES[:2], Example([{"content": "a"}, {"role": "assistant", "content": "b"}], (1,), {"where": "rows.csv: row 3"})]  # type: ignore[list-item]
    with pytest.raises(ValueError, match="rows.csv: row 3: Turn 0 must have a `role`"):
        encode_many(encoder(), wrong, tmp_path, "", show=False)


def test_an_encoder_of_another_class_is_asked_each_time(tmp_path: Path) -> None:
    class Other(ChatEncoder):
        pass

    other = Other(byte_tokenizer(), Encoding(max_length=40, too_long="drop"))
    assert in_words(encode_many(other, EXAMPLES, tmp_path, "", show=False)) == in_words([encode_row(other, example) for example in EXAMPLES])
    assert not list(tmp_path.iterdir())


def test_where_processes_cannot_be_started_one_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    forks: list[int] = []
    fork = os.fork

    def second_fails() -> int:
        if len(forks) == 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        forks.append(fork())
        return forks[-1]

    monkeypatch.setattr("os.fork", second_fails)
    assert len(encode_many(encoder(), EXAMPLES, tmp_path, "", show=False)) == 11
    assert "2 processes could not be started to encode rows ([Errno 11] Resource temporarily unavailable); one does it" in caplog.text
    assert not active_children()


def test_a_process_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "encode_row", lambda *_: os._exit(9))
    with pytest.raises(ValueError, match="A process that encodes rows has died, most often for want of memory"):
        encode_many(encoder(), EXAMPLES, tmp_path, "", show=False)


PROGRAM = """
import os, time
from lit_talr.data import token_cache

def slow(*_):
    print(os.getpid(), flush=True)
    time.sleep(60)

token_cache.encode_row = slow
os.sched_getaffinity = lambda _: {0, 1}
list(token_cache.encoded_pieces(None, range(2000)))
"""


def test_processes_end_with_the_run_however_that_ends() -> None:
    run = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert all(run.stdout.readline().strip().isdigit() for _ in range(2))  # both work
    run.kill()
    assert run.stdout.read() == ""  # which is known when the last process that has the pipe has ended


def test_a_run_keeps_and_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    write_data(tmp_path)
    expected = fit(tmp_path, Standard(), steps=1)
    monkeypatch.setattr("lit_talr.domains.base.MANY", 10)
    run = {"default_root_dir": str(tmp_path / "runs" / "one")}
    first = fit(tmp_path, Standard(), steps=1, trainer=run)
    assert [path.name[:7] for path in (tmp_path / "runs" / ".cache").iterdir()] == ["tokens-"]
    request.getfixturevalue("never_encoded")
    again = fit(tmp_path, Standard(), steps=1, trainer=run)
    assert all((first[name] == weight).all() and (again[name] == weight).all() for name, weight in expected.items())
