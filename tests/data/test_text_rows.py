import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from lit_talr.data.rows import load_rows

HALF = gzip.compress(b'{"a": "1"}\n' * 100, mtime=0)[:-12]
ZSTD = pyarrow.compress(b'{"a": "1"}\n' * 100, "zstd", asbytes=True)


def rows(folder: Path, name: str, content: bytes | str) -> list[dict[str, Any]]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return list(load_rows(str(folder / name), "train", []))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.csv", 'a,b\r\n"1\r\n2","x, \'y\' ""z"""\r\n\r\n007,\r\n', [{"a": "1\r\n2", "b": "x, 'y' \"z\""}, {"a": "007", "b": ""}]),
        ("rows.csv", "a,b\r1,2\r", [{"a": "1", "b": "2"}]),
        ("rows.csv", '\ufeffa,b\n5" pipe,\u2028\n', [{"a": '5" pipe', "b": "\u2028"}]),
        ("rows.csv", "a;b\n1;2, 3\n", [{"a": "1", "b": "2, 3"}]),
        ("rows.csv", '"a"|"b"\n"1|2"|"3"\n', [{"a": "1|2", "b": "3"}]),
        ("rows.tsv", "a\tb,c;d\n1\t\n", [{"a": "1", "b,c;d": ""}]),
        ("rows.csv", f"a\n{'x' * 200_000}\n", [{"a": "x" * 200_000}]),
        ("rows.jsonl", '\ufeff{"a": "1\u2028\x85"}\r\n\n {"b": 2}\n', [{"a": "1\u2028\x85", "b": None}, {"a": None, "b": 2}]),
        ("rows.jsonl", '{"a": "2020-01-01"}\n{"a": "2020-01-02T00:00:00Z"}\n', [{"a": "2020-01-01"}, {"a": "2020-01-02T00:00:00Z"}]),
        ("rows.jsonl", '{"a": "x"}\n{"a": 3}\n{"a": ["y"]}', [{"a": "x"}, {"a": 3}, {"a": ["y"]}]),
        ("rows.jsonl", '{"a": "7"}\n{"a": 7}\n{"a": "{}"}\n{"a": null}', [{"a": "7"}, {"a": 7}, {"a": "{}"}, {"a": None}]),
        ("rows.jsonl", '{"a": [{"b": "7"}]}\n{"a": [{"b": 7}]}', [{"a": [{"b": "7"}]}, {"a": [{"b": 7}]}]),
        ("rows.jsonl", '{"a": "\\ud83d\\ude00 \\u0000"}', [{"a": "\U0001f600 \0"}]),
        ("rows.json", '[\n{"a": 1},\n{"b": 2}\n]', [{"a": 1, "b": None}, {"a": None, "b": 2}]),
        ("rows.json", '{\n"a": 1\n}', [{"a": 1}]),
        ("rows.json", '{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
    ],
)
def test_what_is_read(tmp_path: Path, name: str, content: str, expected: list[dict[str, Any]]) -> None:
    assert rows(tmp_path, name, content) == expected
    assert rows(tmp_path, f"{name}.gz", gzip.compress(content.encode())) == expected
    assert rows(tmp_path, f"{name}.zst", pyarrow.compress(content.encode(), "zstd", asbytes=True)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "a,b\n1,2\n3,4,5\n", "row 2 has 3 cell.s., but the header has 2; put quotes around a cell that holds a comma"),
        ("rows.csv", 'a,b\n"1\n2",3\n4\n', "row 2 has 1 cell.s., but the header has 2"),
        ("rows.csv", 'a,b\n1,2\n"3,4\n', "row 2 is not CSV .unexpected end of data.; a quote inside a quoted cell is written twice"),
        ("rows.csv", 'a,b\n"5" pipe,2\n', "row 1 is not CSV .',' expected after '\"'."),
        (
            "rows.csv",
            "a;b\n1;2;3\n",
            "row 1 has 3 cell.s., but the header has 2; put quotes around a cell that holds ';', which separates the cells of this file",
        ),
        ("rows.csv", "a,b,a\n1,2,3\n", "column `a` stands in the header more than once; rename one of them"),
        ("rows.csv", "a,b\n", "has no rows"),
        ("rows.csv", "\n\n", "has no rows"),
        ("rows.csv", "a\ncaf\u00e9\n".encode("latin-1"), "line 2 is not UTF-8 .invalid continuation byte at byte 3.; save the file as UTF-8"),
        ("rows.csv", "a\n1\n".encode("utf-16"), "line 1 is not UTF-8 .invalid start byte at byte 0.; save the file as UTF-8"),
        ("rows.csv", "a\n1\n".encode("utf-16-le"), "line 1 is not UTF-8 text .zero byte at byte 1.; save the file as UTF-8"),
        ("rows.jsonl", '{"a": "1"}\n'.encode("utf-16-be"), "line 1 is not UTF-8 text .zero byte at byte 0."),
        ("rows.jsonl", '{"a": 1}\n\n{"a": 2,\n', "row 2 is not JSON .Expecting property name .* at column 9.; each line must hold one JSON object"),
        ("rows.jsonl", '{"a": 1, "a": 2}', "row 1 is not JSON .the key 'a' stands twice in one object."),
        ("rows.jsonl", f'{{"a": {"9" * 5000}}}', "row 1 is not JSON .Exceeds the limit"),
        ("rows.jsonl", f'{{"a": {"[" * 100_000}{"]" * 100_000}}}', "row 1 is not JSON .maximum recursion depth exceeded"),
        (
            "rows.jsonl",
            '{"a": "x"}\n{"a": "\\ud800"}\n{"a": "y"}',
            "row 2 cannot be read .it holds a value that JSON does not keep",
        ),
        ("rows.jsonl", f'{{"a": ""}}\n{{"a": {"[" * 1500}{"]" * 1500}}}', "row 2 is not JSON .maximum recursion depth exceeded"),
        ("rows.jsonl", '{"a": "x"}\n{"a": [-9223372036854775809]}', "row 2 cannot be read .Value is too small.*; correct it or remove the row"),
        ("rows.jsonl", '{"a": 1}\n{"a": 1e400}\n{"a": 100000000000000000000}', "row 3 cannot be read .Value is too big"),
        ("rows.jsonl", "\n \n", "has no rows"),
        ("rows.jsonl", gzip.compress(b"{}", mtime=0), "is gzipped, which its name does not say; name it rows.jsonl.gz, or decompress it"),
        ("rows.jsonl.gz", b'{"a": 1}', "cannot be read .Not a gzipped file"),
        ("rows.jsonl.gz", HALF, "cannot be read .Compressed file ended before"),
        ("rows.jsonl.gz", gzip.compress(b"", mtime=0), "has no rows"),
        ("rows.jsonl", ZSTD, "is compressed by zstd, which its name does not say; name it rows.jsonl.zst, or decompress it"),
        ("rows.jsonl.zst", ZSTD[:-4], "cannot be read .Truncated compressed stream"),
        ("rows.json", '[{"a": 1},\n', "is not JSON .*line 2 column 1.*; it must hold a list of objects, or one object a line"),
        ("rows.json", '[{"a": 1}, 2]', "row 2 is a JSON int, not an object; give one JSON object for each row"),
        ("rows.json", "null", "row 1 is a JSON NoneType, not an object"),
        ("rows.json", "[" * 100_000, "is not JSON that can be read .maximum recursion depth"),
        (
            "rows.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
            "has no rows: it is a pointer of Git LFS, which `git lfs pull` replaces by the file",
        ),
        ("rows.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "has no rows: it is a pointer of Git LFS"),
        ("rows.csv", "<!DOCTYPE html><html></html>", "has no rows: it is a web page; fetch or write it again"),
        ("rows.csv.zip", b"PK", "is of no known kind; give a .jsonl"),
    ],
)
def test_a_broken_file_is_named_in_one_sentence(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: {message}") as error:
        rows(tmp_path, name, content)
    assert "\n" not in str(error.value)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "rows.jsonl").write_text(json.dumps({"a": 1}))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match="rows.jsonl: cannot be read .*Permission denied"):
        load_rows(str(tmp_path / "rows.jsonl"), "train", [])
