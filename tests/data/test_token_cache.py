import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from lit_talr.data import token_cache
from lit_talr.data.encoder import ChatEncoder, Encoded, TooLong
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Insertion, Weight
from lit_talr.data.token_cache import encode_many, encode_row
from lit_talr.losses import Standard
from tests.helpers.fits import fit, write_data
from tests.helpers.tiny import byte_tokenizer

EXAMPLES = [  # of 4 to 71 tokens; the tenth is too long even without its prompt
    Example.from_prompt("?" * (row % 7 * 9), "!" * (60 if row == 9 else row + 1), meta={"where": f"rows.csv: row {row + 1}"}) for row in range(11)
]
EXAMPLES[2] = replace(EXAMPLES[2], insertions=[Insertion(1, 1, "-")])


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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder; the cache lies next to it."""
    return tmp_path / "run"


def cached_files(run: Path) -> list[Path]:
    return sorted((run.parent / ".cache").glob("*"))


def encode_all(coder: ChatEncoder, run: Path, examples: Sequence[Example] = EXAMPLES) -> list[object]:
    return as_lists(encode_many(coder, examples, run, "", show=False))


def as_lists(rows: list[Encoded | TooLong]) -> list[object]:
    return [
        row.num_tokens if isinstance(row, TooLong) else (row.input_ids.tolist(), row.supervised.tolist(), row.truncated, row.noise.tolist()) for row in rows
    ]


def test_processes_and_the_cache_give_the_rows_of_one_process_in_order(run: Path, request: pytest.FixtureRequest) -> None:
    alone = [encode_row(encoder(), example) for example in EXAMPLES]
    assert 0 < sum(isinstance(row, TooLong) for row in alone) < sum(isinstance(row, Encoded) and row.truncated > 0 for row in alone) < 11
    assert encode_all(encoder(), run) == as_lists(alone)
    assert [path.name[:7] for path in cached_files(run)] == ["tokens-"]
    request.getfixturevalue("never_encoded")
    cached = encode_many(encoder(), EXAMPLES, run, "", show=False)
    assert as_lists(cached) == as_lists(alone)
    dtypes = {(row.input_ids.dtype, row.supervised.dtype, row.noise.dtype) for row in cached if isinstance(row, Encoded)}
    assert dtypes == {(np.dtype("int32"), np.dtype("bool"), np.dtype("bool"))}
    assert [int(row.noise.sum()) for row in cached if isinstance(row, Encoded)][:4] == [0, 0, 1, 0]


def test_weights_are_cached_where_there_are_any(run: Path, request: pytest.FixtureRequest) -> None:
    weighted = [*EXAMPLES[:3], replace(EXAMPLES[3], weight=0.5), EXAMPLES[9], replace(EXAMPLES[4], weights=[Weight(1, 3.0, (1, 2))])]
    alone = [encode_row(encoder(), example) for example in weighted]
    encode_all(encoder(), run, weighted)
    request.getfixturevalue("never_encoded")
    for row, cached in zip(alone, encode_many(encoder(), weighted, run, "", show=False), strict=True):
        assert type(row) is type(cached)
        if isinstance(row, Encoded) and isinstance(cached, Encoded) and row.weights is not None:
            assert cached.weights is not None and cached.weights.dtype == np.float32 and cached.weights.tolist() == row.weights.tolist()
        elif isinstance(row, Encoded) and isinstance(cached, Encoded) and cached.weights is not None:
            assert (cached.weights == 1).all()


def test_rows_that_are_all_too_long_are_cached(run: Path, request: pytest.FixtureRequest) -> None:
    rows = encode_all(encoder("drop", max_length=2), run)
    assert all(isinstance(row, int) for row in rows)
    request.getfixturevalue("never_encoded")
    assert encode_all(encoder("drop", max_length=2), run) == rows


def test_other_options_texts_or_templates_are_another_entry(run: Path) -> None:
    coders = [encoder(), encoder(max_length=41), encoder("drop"), ChatEncoder(byte_tokenizer("qwen2"), Encoding(max_length=400))]
    for coder in coders:
        encode_all(coder, run)
    encode_all(encoder(), run, EXAMPLES[::-1])
    assert len(cached_files(run)) == 5


def test_everything_of_a_row_is_part_of_the_key(run: Path) -> None:
    first = EXAMPLES[0]
    thinking = replace(first, messages=[first.messages[0], {**first.messages[1], "reasoning_content": "hm"}])
    rows = [first, thinking, replace(first, tools=[{"name": "f"}]), replace(first, template_arguments={"day": 1})]
    rows += [replace(first, insertions=[Insertion(1, at, text)]) for at, text in ((0, "?"), (1, "?"), (1, "-"))]
    rows += [replace(first, weight=2.0), *(replace(first, weights=[Weight(1, 2.0, span)]) for span in (None, (0, 1)))]
    assert len({token_cache.token_cache(run, encoder(), [row]).path for row in rows}) == 10
    other = ChatEncoder(byte_tokenizer(), Encoding(max_length=40, too_long="truncate_prompt", prompt_weight=1))
    assert token_cache.token_cache(run, other, [first]).path != token_cache.token_cache(run, encoder(), [first]).path


def test_an_entry_that_is_not_whole_is_computed_again(run: Path) -> None:
    first = encode_all(encoder(), run)
    (file,) = cached_files(run)
    whole = file.read_bytes()
    for broken in (whole[:-7], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(broken)
        assert encode_all(encoder(), run) == first
        assert token_cache.token_cache(run, encoder(), EXAMPLES).read() is not None


def test_a_run_goes_on_if_its_tokens_cannot_be_cached(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run.parent / ".cache").write_text("")
    assert len(encode_all(encoder(), run)) == 11
    assert "tokens could not be cached (" in caplog.text


def test_errors_name_the_row_from_any_process(run: Path) -> None:
    with pytest.raises(ValueError, match=r"rows.csv: row 5: This has \d+ tokens, more than the 40 allowed"):
        encode_all(encoder("error"), run)
    wrong = [*EXAMPLES[:8], Example.from_prompt("?", " ", meta={"where": "rows.csv: row 9"})]
    with pytest.raises(ValueError, match="rows.csv: row 9: Turn 1 has an empty response"):
        encode_all(encoder(), run, wrong)
    wrong = [*EXAMPLES[:2], Example([{"content": "a"}, {"role": "assistant", "content": "b"}], (1,), {"where": "rows.csv: row 3"})]  # type: ignore[list-item]
    with pytest.raises(ValueError, match="rows.csv: row 3: Turn 0 must have a `role`"):
        encode_all(encoder(), run, wrong)
    assert not cached_files(run)


def test_a_subclass_is_never_cached(run: Path) -> None:
    class Other(ChatEncoder):
        pass

    other = Other(byte_tokenizer(), Encoding(max_length=40, too_long="drop"))
    assert encode_all(other, run) == as_lists([encode_row(other, example) for example in EXAMPLES])
    assert not cached_files(run)


def test_one_process_encodes_if_others_cannot_be_started(run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    forks: list[int] = []
    fork = os.fork

    def second_fails() -> int:
        if len(forks) == 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        forks.append(fork())
        return forks[-1]

    monkeypatch.setattr("os.fork", second_fails)
    assert len(encode_all(encoder(), run)) == 11
    assert "2 processes could not be started to encode rows ([Errno 11] Resource temporarily unavailable); one does it" in caplog.text
    assert not active_children()


def test_a_process_that_dies_is_reported(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "encode_row", lambda *_: os._exit(9))
    with pytest.raises(ValueError, match="A process that encodes rows has died, most often for want of memory"):
        encode_all(encoder(), run)


PROGRAM = """
import os, time
from lit_talr.data import token_cache

def slow(*_):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece
    time.sleep(60)

token_cache.encode_row = slow
os.sched_getaffinity = lambda _: {0, 1}
list(token_cache.encoded_pieces(None, range(2000)))
"""


@pytest.mark.slow
def test_processes_end_with_the_run_however_that_ends() -> None:
    run = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert all(run.stdout.readline().strip().isdigit() for _ in range(2))  # both work
    run.kill()
    assert run.stdout.read() == ""  # which is known when the last process that has the pipe has ended


def test_a_run_caches_and_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    write_data(tmp_path)
    expected = fit(tmp_path, Standard(), steps=1)
    monkeypatch.setattr("lit_talr.domains.base.MANY", 10)
    run = {"default_root_dir": str(tmp_path / "runs" / "one")}
    first = fit(tmp_path, Standard(), steps=1, trainer=run)
    assert [path.name[:7] for path in (tmp_path / "runs" / ".cache").iterdir()] == ["tokens-"]
    request.getfixturevalue("never_encoded")
    again = fit(tmp_path, Standard(), steps=1, trainer=run)
    assert all((first[name] == weight).all() and (again[name] == weight).all() for name, weight in expected.items())
