import json
import os
from pathlib import Path
from typing import Any

import pytest

from lit_talr.data.example import Example
from lit_talr.domains import ESCI
from lit_talr.domains.esci import PUBLISHED
from tests.helpers.esci_rows import TEXTS, esci_row, esci_rows, write_esci, write_rows


def esci(folder: Path, changed: dict[str, Any] | None = None, **options: Any) -> ESCI:
    _, train, _, test = write_esci(folder, **(changed or {}))
    return ESCI("no-tokenizer", **{"train": train, "test": test, "validation": 0.3, **options})


def queries(examples: list[Example]) -> set[str]:
    return {example.messages[1]["content"].split("\n")[0].removeprefix("Query: ") for example in examples}


def everything(data: ESCI) -> list[Example]:
    return [*data.examples("train"), *data.examples("val")]


def named(examples: list[Example], number: int) -> Example:
    (found,) = (example for example in examples if example.meta["where"].endswith(f": row {number}"))
    return found


def products_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ("product_id", "product_locale", *TEXTS)} for row in rows]


def test_label_learns_the_class_alone(tmp_path: Path) -> None:
    example = named(everything(esci(tmp_path, {"esci_label": "COMPLEMENT"})), 3)
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant"]
    assert example.supervised == (2,)
    assert example.messages[2]["content"] == '{"answer": "C"}'
    assert example.meta["answer"] == "C"


def test_cot_learns_the_rationale_and_the_class(tmp_path: Path) -> None:
    data = esci(tmp_path, {"rationale": "It is a bulb."}, target="cot")
    assert json.loads(named(everything(data), 3).messages[2]["content"]) == {"step_by_step_thinking": "It is a bulb.", "answer": "C"}
    assert json.loads(data.examples("test")[0].messages[2]["content"]) == {"answer": "E"}


def test_the_prompt_tells_the_fields_that_are_asked_for_and_not_empty(tmp_path: Path) -> None:
    shown = named(everything(esci(tmp_path, max_field_chars=9)), 2).messages[1]["content"]
    product = "Title: Lamp numb\nBrand: Riverby\nColor: Black\nBullet points: Bright\nSm\nDescription: A lamp th"
    assert shown == f"Query: train lamp 0\n\nProduct:\n{product}\n\nReply with nothing but the JSON object."
    assert "Brand" not in named(everything(esci(tmp_path)), 1).messages[1]["content"]
    shown = named(everything(esci(tmp_path, fields=["color", "title"])), 2).messages[1]["content"]
    assert "Product:\nColor: Black\nTitle: Lamp number 1\n\n" in shown


def test_splits_are_disjoint_by_query_and_overlap_with_test_is_counted(tmp_path: Path) -> None:
    data = esci(tmp_path, {"query": " TEST  lamp 1"})
    train, val, test = data.examples("train"), data.examples("val"), data.examples("test")
    splits = [queries(list(examples)) for examples in (train, val, test)]
    assert all(splits) and not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]
    assert len(train) + len(val) == 47
    assert data.counts["train"]["query also in test"] + data.counts["val"]["query also in test"] == 1


@pytest.mark.parametrize("changed", [{"query_id": 101}, {"example_id": 1002}])
def test_an_id_of_the_test_set_is_an_overlap_too(tmp_path: Path, changed: dict[str, int]) -> None:
    data = esci(tmp_path, changed)
    assert len(everything(data)) == 47
    assert data.counts["train"]["query also in test"] + data.counts["val"]["query also in test"] == 1


def test_ids_and_versions_are_whole_numbers_however_they_are_kept(tmp_path: Path) -> None:
    """pandas makes floats of a column of whole numbers with one missing."""
    rows = [*esci_rows("train"), *esci_rows("test")]
    rows[2] |= {"query_id": 101}
    rows = [row | {"query_id": float(row["query_id"]), "large_version": True} for row in rows]
    file = write_rows(tmp_path / "floats.parquet", [*rows, esci_row("train", 11, 3) | {"query_id": None, "large_version": True, "example_id": 5000}])
    data = ESCI("x", train=file, test=write_rows(tmp_path / "test.parquet", esci_rows("test")))
    everything(data)
    assert data.counts["train"]["query also in test"] + data.counts["val"]["query also in test"] == 1


def test_a_validation_file_of_ones_own(tmp_path: Path) -> None:
    rows = [{**esci_row("train", query, 0), "split": "validation", "example_id": None} for query in (3, 20)]
    val = write_rows(tmp_path / "val.parquet", [*rows, {**esci_row("test", 1, 0), "split": "val"}, esci_row("train", 5, 0)])
    data = esci(tmp_path / "rows", val=val)
    assert queries(list(data.examples("val"))) == {"train lamp 3", "train lamp 20"}
    assert data.counts["val"]["query also in test"] == 1
    assert queries(list(data.examples("train"))) == {f"train lamp {query}" for query in range(12) if query != 3}
    assert data.counts["train"]["query also in val"] == 4


def test_one_file_can_hold_all_splits_locales_and_versions(tmp_path: Path) -> None:
    spanish = {**esci_row("train", 11, 3), "query": "lámpara", "product_locale": "es", "example_id": 5000}
    file = write_rows(tmp_path / "all.parquet", [*esci_rows("train"), *esci_rows("test"), spanish])
    assert len(everything(ESCI("x", train=file, test=file))) == 48
    assert len(everything(ESCI("x", train=file, test=file, version="small"))) == 24
    with pytest.raises(ValueError, match="all.parquet: has no row of `split` test, `product_locale` es, `large_version` 1; choose another `data.locale`"):
        ESCI("x", train=file, test=file, locale="es").examples("test")


def test_columns_that_choose_rows_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("query,product_title,esci_label\nlamp,A lamp,Exact\nbulb,A lamp,irrelevant\n")
    (tmp_path / "test.jsonl").write_text('{"query": "cup", "product_title": "A cup", "esci_label": "E"}\n')
    data = ESCI("x", train=str(tmp_path / "train.csv"), test=str(tmp_path / "test.jsonl"), fields=["title"])
    assert [example.meta["answer"] for example in sorted(everything(data), key=lambda example: str(example.meta["where"]))] == ["E", "I"]


def test_the_first_rows_are_those_of_some_queries_whatever_else_there_is(tmp_path: Path) -> None:
    few, more = (esci(tmp_path, max_rows=size, max_test_rows=6) for size in (16, 32))
    assert len(everything(few)) == 16 and len(queries(everything(few))) == 4
    assert queries(list(few.examples("val"))) <= queries(list(more.examples("val")))
    assert len(few.examples("test")) == 6
    assert queries(everything(few)) != {f"train lamp {query}" for query in range(4)}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_products_of_a_second_file_are_joined(tmp_path: Path, kind: str) -> None:
    rows = [*esci_rows("train"), *esci_rows("test")]
    products = write_rows(tmp_path / "products.parquet", products_of(rows[::-1]))
    examples = [{name: value for name, value in row.items() if name not in TEXTS} for row in rows]
    file = tmp_path / f"examples.{kind}"
    if kind == "parquet":
        write_rows(file, examples)
    else:
        names = list(examples[0])
        lines = (
            [json.dumps(row) for row in examples] if kind == "jsonl" else [",".join(names), *(",".join(str(row[name]) for name in names) for row in examples)]
        )
        file.write_text("\n".join(lines))
    joined, whole = ESCI("x", train=str(file), test=str(file), products=products), esci(tmp_path / "rows", validation=0.05)
    assert [example.messages for example in everything(joined)] == [example.messages for example in everything(whole)]
    few = write_rows(tmp_path / "few.parquet", products_of(rows[1:]))
    with pytest.raises(ValueError, match="row 1: `product_id` B000000000 of the locale us is not in .*few.parquet; add the product or remove the row"):
        everything(ESCI("x", train=str(file), test=str(file), products=few))
    twice = write_rows(tmp_path / "twice.parquet", products_of([*rows, rows[0]]))
    assert everything(ESCI("x", train=str(file), test=str(file), products=twice))
    twice = write_rows(tmp_path / "other.parquet", [*products_of(rows[:2]), *products_of([rows[0] | {"product_title": "Another"}])])
    with pytest.raises(ValueError, match="row 3: the `product_id` B000000000 of the locale us stands in row 1 too, with other texts; remove one of them"):
        everything(ESCI("x", train=str(file), test=str(file), products=twice))
    with pytest.raises(ValueError, match="column `product_title` is missing; add it, or give the file of products as `data.products`"):
        ESCI("x", train=str(file), test=str(file)).examples("test")


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"esci_label": "e"}, {}, "train.parquet: row 3: `esci_label` must be E, S, C, I, or one of Exact, .*, got 'e'; correct it or remove the row"),
        ({"esci_label": None}, {}, "train.parquet: row 3: `esci_label` must be .*, got ''"),
        ({"query": "  "}, {}, "train.parquet: row 3: `query` must be a text that is not empty, got ''; fill it in or remove the row"),
        ({"product_title": None}, {}, "train.parquet: row 3: `product_title` must be a text that is not empty, got ''; fill it in or remove the row"),
        (
            {"rationale": ""},
            {"target": "cot"},
            "train.parquet: row 3: `rationale` must be .*, got ''; fill it in, remove the row, or use `target: label`",
        ),
        ({"example_id": 1000}, {}, r"test.parquet: row 1: `esci_label` is E, but C in .*train.parquet: row 3, of the same `example_id` 1000; remove one"),
        ({}, {"target": "cot", "rationale": "why"}, "train.parquet: column `why` is missing, which `target: cot` learns .*, or use `data.target: label`"),
        (
            {},
            {"fields": ["title", "price"]},
            "test.parquet: column `product_price` is missing; add it, or leave price out of `data.fields`|train.parquet: column",
        ),
    ],
)
def test_bad_data_is_named(tmp_path: Path, changed: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        everything(esci(tmp_path, changed, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "cot"}, f"{PUBLISHED}: column `rationale` is missing, which `target: cot` learns .published rows have none.; give a file of your own"),
        ({"max_field_chars": 0}, "`max_field_chars` must be at least 1, got 0"),
        ({"fields": ["brand"]}, r"`fields` must hold `title`, and none twice, got \['brand'\]"),
        ({"fields": ["title", "title"]}, "`fields` must hold `title`, and none twice"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ESCI("x", **options)


@pytest.mark.skipif("LIT_TALR_DATA" not in os.environ, reason="needs the folder LIT_TALR_DATA")
def test_on_the_real_rows() -> None:
    """The counts of the data's own README: no query is in two splits."""
    file = str(Path(os.environ["LIT_TALR_DATA"]) / "esci" / "esci_us_pairs.parquet")
    data = ESCI("x", train=file, val=file, test=file)
    splits = {split: data.examples(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 4596, "val": 537, "test": 494}
    assert not any(data.counts[split].total() for split in ("train", "val", "test"))  # type: ignore[index]
    assert sum(example.meta["answer"] == "C" for example in splits["test"]) == 15
    metric = data.metric()
    metric.update([example.messages[-1]["content"] for example in splits["train"]], splits["train"])
    assert metric.compute()["score"] == 1.0  # what is learned is scored right
