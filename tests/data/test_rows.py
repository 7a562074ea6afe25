import gzip
import json
import os
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest

from lit_talr.data.rows import load_rows

ROWS = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": ""}]


def test_a_parquet_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    """Also where its time is that of the old one, as ``cp -p`` and archives leave it."""
    for prompt in "ac":
        datasets.Dataset.from_list([{"prompt": prompt}]).to_parquet(tmp_path / "rows.parquet")
        os.utime(tmp_path / "rows.parquet", (1e9, 1e9))
        assert list(load_rows(str(tmp_path / "rows.parquet"), "train", [])) == [{"prompt": prompt}]


def test_white_space_in_a_column_name_is_shown(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt, response\na,b\n")
    with pytest.raises(ValueError, match="column `response` is missing; the file has `prompt`, ' response'"):
        load_rows(str(tmp_path / "rows.csv"), "train", ["prompt", "response"])


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.parquet", "rows.json"])
def test_reads_every_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = datasets.Dataset.from_list(ROWS)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    match name:
        case "rows.jsonl":
            path.write_text(lines)
        case "rows.jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case "rows.json":
            path.write_text(json.dumps(ROWS))
        case "rows.csv":
            table.to_csv(path)
        case "rows.parquet":
            table.to_parquet(path)
    rows = load_rows(str(path), "train", ["prompt", "response"])
    assert list(rows) == ROWS


def test_csv_cells_stay_text(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('id,answer\n007,NA\n"1\n2",\n')
    assert list(load_rows(str(tmp_path / "rows.csv"), "train", [])) == [{"id": "007", "answer": "NA"}, {"id": "1\n2", "answer": ""}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": 2,\n', r"rows.jsonl: row 2 is not JSON \(.*\); each line must hold one JSON object"),
        ('{"a": 1}\n[1, 2]\n', "rows.jsonl: row 2 is a JSON list, not an object"),
        ("", "rows.jsonl: has no rows"),
        ('{"b": 1}\n', "rows.jsonl: column `a` is missing; the file has `b`"),
    ],
)
def test_a_broken_file_is_named_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_rows(str(tmp_path / "rows.jsonl"), "train", ["a"])


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes('{"a": "x"}\n{"a": "caf\u00e9"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match="rows.jsonl: line 2 is not UTF-8 .* save the file as UTF-8"):
        load_rows(str(tmp_path / "rows.jsonl"), "train", ["a"])
    (tmp_path / "rows.csv").write_bytes("a\ncaf\u00e9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="rows.csv: line 2 is not UTF-8"):
        load_rows(str(tmp_path / "rows.csv"), "train", ["a"])


def test_a_name_is_no_pattern(tmp_path: Path) -> None:
    for name in ("a1.parquet", "a[1].parquet"):
        datasets.Dataset.from_dict({"name": [name]}).to_parquet(tmp_path / name)
        assert load_rows(str(tmp_path / name), "train", ())["name"][:] == [name]


@pytest.mark.parametrize("name", ["missing.jsonl", "./missing", "rows.parquet"])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"no such file of rows; give a .jsonl, .json, .csv, .tsv .also .gz and .zst. or .parquet file"):
        load_rows(str(tmp_path / name), "train", [])


def test_a_broken_parquet_file(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    datasets.Dataset.from_list(ROWS * 50).to_parquet(whole)
    latin = whole.with_name("latin.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([b"x", "caf\u00e9".encode("latin-1")]).view("string")}), latin)
    for content in (latin.read_bytes(), b"PAR1 no", b"PAR1" + bytes(100) + b"\x40\0\0\0PAR1", whole.read_bytes()[:-9], whole.read_bytes()[20:]):
        (tmp_path / "rows.parquet").write_bytes(content)
        with pytest.raises(ValueError, match="rows.parquet: cannot be read as parquet") as error:
            load_rows(str(tmp_path / "rows.parquet"), "train", [])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("folder", "a folder that `save_to_disk` of `datasets` did not write; give a .jsonl.*, or several by a pattern, such as .*/folder/.+"),
        ("rows.xlsx", "of no known kind; give a .jsonl"),
    ],
)
def test_not_a_file_of_rows(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "rows.xlsx").write_text("x")
    with pytest.raises(ValueError, match=f"{name}: is {what}"):
        load_rows(str(tmp_path / name), "train", [])


def test_a_part_of_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, subset: str | None, split: str, revision: str | None, trust_remote_code: bool) -> datasets.Dataset:
        if subset is None:
            raise ValueError("Config name is missing.\nPlease pick one.")
        return datasets.Dataset.from_list([{"asked": f"{name} {subset} {split} {revision}"}])

    def load_nothing(*_: object, **__: object) -> datasets.Dataset:
        raise OSError

    monkeypatch.setattr(datasets, "load_dataset", load_nothing)
    with pytest.raises(ValueError, match=r"owner/name: no such file, and no data set .* could be read from the hub \(OSError\)"):
        load_rows("owner/name", "test", [])
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_rows("owner/name", "test", ["asked"], "abc", "main")[0]["asked"] == "owner/name main test abc"
    with pytest.raises(ValueError, match=r"owner/name: no such file, and no data set .* could be read from the hub \(Config name is missing.\)"):
        load_rows("owner/name", "test", [])


def test_columns_of_several_kinds_are_as_if_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {
        "late": [None, None, None, "x", "y"],
        "numbers": [1, 2, 2.5, None, 3],
        "mixed": ["7", "8", 9, {"b": 1}, {"c": 2}],
        "large": [2**60 + 1, 1, 0.5, 1, 1],
        "lists": [[1], [2], [], [0.5], None],
    }
    rows = [{name: values[index] for name, values in columns.items() if not (name == "late" and index < 2)} for index in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = load_rows(str(tmp_path / "rows.jsonl"), "train", [])
    monkeypatch.setattr("lit_talr.data.table.BLOCK", 2)
    blocks = load_rows(str(tmp_path / "rows.jsonl"), "train", [])
    assert whole.features == blocks.features
    for name, values in columns.items():
        assert list(whole[name]) == list(blocks[name]) == values


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    table.with_format("numpy").save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table, "val": table.select([0])}).save_to_disk(tmp_path / "all")
    assert list(load_rows(str(tmp_path / "one"), "test", [])) == list(load_rows(str(tmp_path / "all"), "train", [])) == ROWS
    assert list(load_rows(str(tmp_path / "all"), "validation", [])) == ROWS[:1]
    with pytest.raises(ValueError, match=r"all: cannot be read .*\(has no split `test`, but `train`, `val`; give the folder of one of these\)"):
        load_rows(str(tmp_path / "all"), "test", [])
    (file,) = (tmp_path / "one").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match="one: cannot be read as a folder of `datasets`"):
        load_rows(str(tmp_path / "one"), "train", [])
