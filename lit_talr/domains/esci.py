"""Amazon's Shopping Queries, ESCI (Reddy et al., arXiv:2206.06588, https://github.com/amazon-science/esci-data), Apache-2.0: does a product fit a query?

A row of the published examples, joined with its product (this one is invented):

    example_id: 7     query: 24 oz plastic water bottle    query_id: 3    product_id: B000000007    product_locale: us
    esci_label: E     small_version: 0    large_version: 1    split: train
    product_title: Clear Water Bottle, 24 oz    product_brand: Riverby    product_color: Clear
    product_bullet_point: Holds 24 ounces ...   product_description: A light bottle ...
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Split
from lit_talr.data.rows import load_rows, row_name
from lit_talr.domains.base import DomainDataModule, held_out
from lit_talr.domains.prompts import fill_in, read_prompt
from lit_talr.metrics.classes import ClassScores

if TYPE_CHECKING:
    import datasets
    import pandas as pd  # half a second at start-up

CLASSES = {"E": "Exact", "S": "Substitute", "C": "Complement", "I": "Irrelevant"}
Field = Literal["title", "brand", "color", "bullet_point", "description"]
FIELDS: dict[Field, str] = {"title": "Title", "brand": "Brand", "color": "Color", "bullet_point": "Bullet points", "description": "Description"}
PRODUCT = ("product_locale", "product_id")
PUBLISHED = "tasksource/esci"
SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}

TASK = (
    "You judge how well a product fits the query of a shopper. The classes: E (exact), it is what the query asks for in every respect; S (substitute), it "
    "lacks something that the query asks for, but could be used instead; C (complement), it is not what the query asks for, but could be used together with "
    "it; I (irrelevant), it is none of these."
)
REPLY = {
    "cot": 'Think step by step, then give the class. Reply with one JSON object of the form {"step_by_step_thinking": <your reasoning, as text>, "answer": '
    "<E, S, C or I>}.",
    "label": 'Reply with one JSON object of the form {"answer": <E, S, C or I>}, without any reasoning.',
}
USER_PROMPT = "Query: {query}\n\nProduct:\n{product}\n\nReply with nothing but the JSON object."
PROMPTS = {target: {"system": f"{TASK} {reply}", "user": USER_PROMPT} for target, reply in REPLY.items()}
"""In our own words. The paper's own prompt is not known."""


class ESCI(DomainDataModule):
    """Product search: read a query and a product, and say whether it is an exact match, a substitute, a complement, or irrelevant (E, S, C, I).

    Of a file with the columns ``split``, ``product_locale`` or ``large_version`` (``small_version``) only the rows of the split, locale and version are used.
    Training and validation rows whose query (but for case and blanks), or an id, also stands in the test set are left out and counted. What the TALR paper
    used (subset, prompt, product fields, rationales, score) is not known: all defaults here are our choice.

    Args:
        tokenizer: Folder or hub name; on the command line it is that of the model.
        tokenizer_revision: Commit, tag or branch of a hub tokenizer; likewise.
        encoding: How examples become tokens.
        batching: How examples become optimizer steps.
        target: What is learned: ``label``, the class alone, or ``cot``, a rationale and the class; published rows have no rationale.
        source: The data set's name on the hub. The default, others' copy of the published examples joined with their products, could not be reached for a test.
        revision: Its commit, tag or branch.
        train: A local Parquet, CSV or JSONL file with the published columns, instead of the hub's training split.
        val: Likewise for validation; by default its rows are split from the training rows by the hash of the query.
        test: Likewise for the test split.
        products: A file of the products, where the other files have ``product_locale`` and ``product_id`` in place of their texts, as published.
        rationale: The column that ``target: cot`` learns before the class.
        locale: Which marketplace's rows are used.
        version: ``large``, which the task to classify products has, or ``small``, its harder queries.
        fields: What the prompt tells of the product, where it is not empty; ``title`` among them. (The data set's own baseline reads the title alone.)
        max_field_chars: Characters after which each of them is cut, at least 1.
        validation: Share of the training queries that is held out for validation, in (0, 1).
        split_seed: Which queries those are.
        max_rows: At most so many training rows, those held out included: of the queries whose hash comes first, since the published rows are sorted by query.
        max_test_rows: Likewise of the test rows.
        prompt_file: A YAML file with the keys ``system`` (may be left out) and ``user``, whose text holds {query} and {product}: another wording.

    Raises:
        ValueError: For a number out of range, a prompt file without its places, and ``cot`` without rationales; by file, row and column for a missing column,
            an empty text, a label that is no class, a product that is not there or has two texts, and one ``example_id`` with two labels.
    """

    license = "Apache-2.0"

    def __init__(
        self,
        tokenizer: str,
        tokenizer_revision: str | None = None,
        encoding: Encoding = Encoding(),
        batching: Batching = Batching(),
        target: Literal["label", "cot"] = "label",
        source: str = PUBLISHED,
        revision: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        products: str | None = None,
        rationale: str = "rationale",
        locale: Literal["us", "es", "jp"] = "us",
        version: Literal["large", "small"] = "large",
        fields: Sequence[Field] = tuple(FIELDS),
        max_field_chars: int = 500,
        validation: float = 0.05,
        split_seed: int = 0,
        max_rows: int | None = None,
        max_test_rows: int | None = None,
        prompt_file: Path | None = None,
    ) -> None:
        super().__init__(tokenizer, tokenizer_revision, encoding, batching)
        for name, size in (("max_rows", max_rows), ("max_test_rows", max_test_rows), ("max_field_chars", max_field_chars)):
            if size is not None and size < 1:
                raise ValueError(f"`{name}` must be at least 1, got {size}.")
        if not 0 < validation < 1:
            raise ValueError(f"`validation` must lie between 0 and 1 (a share of the training queries), got {validation}.")
        if "title" not in fields or len(set(fields)) < len(fields):
            raise ValueError(f"`fields` must hold `title`, and none twice, got {list(fields)}.")
        if target == "cot" and train is None and source == PUBLISHED:
            raise no_rationale(source, rationale)
        self.target = target
        self.revision = revision
        self.files: dict[Split, str | None] = {"train": train or source, "val": val, "test": test or source}
        self.source_name = train or source
        self.products = products
        self.rationale = rationale
        self.wanted = {"product_locale": (locale,), f"{version}_version": ("1",)}
        self.fields = list(fields)
        self.max_field_chars = max_field_chars
        self.validation = validation
        self.split_seed = split_seed
        self.max_rows = max_rows
        self.max_test_rows = max_test_rows
        self.prompt = PROMPTS[target] if prompt_file is None else read_prompt(prompt_file, ("query", "product"))

    def metric(self) -> ClassScores:
        return ClassScores(CLASSES)

    def examples(self, split: Split) -> Sequence[Example]:
        own = self.read(split if self.files[split] else "train")
        others: dict[Split, Judgements] = {} if split == "test" else {"test": self.read("test")}
        if split == "train" and self.files["val"]:
            others["val"] = self.read("val")
        check_ids([own, *others.values()])
        keys = own.keys
        if split == "test":
            keys = first(keys, self.max_test_rows)
        elif split == "train" or not self.files["val"]:
            keys = first(keys, self.max_rows)
        if split != "test" and not self.files["val"]:
            keys = keys[[held == (split == "val") for held in held_out(keys["query"], self.validation, self.split_seed)]]
        for name, other in others.items():
            also = keys["query"].isin(other.keys["query"])
            for number in ("query_id", "example_id"):
                also |= keys[number].isin({*other.keys[number]} - {""})
            self.counts[split][f"query also in {name}"] += int(also.sum())
            keys = keys[~also]
        return [self.example(own, place, label, answered=split != "test") for place, label in zip(keys.index, keys["label"], strict=True)]

    def read(self, split: Split) -> "Judgements":
        """The rows of a split."""
        import pandas as pd

        source = self.files[split]
        assert source is not None
        rows = load_rows(source, SPLITS[split][0], ("query", "esci_label", *(PRODUCT if self.products else ())), self.revision)
        if not self.products:
            self.check_fields(source, rows)
        if self.target == "cot" and split != "test" and self.rationale not in rows.column_names:
            raise no_rationale(source, self.rationale)
        wanted = {name: values for name, values in ({"split": SPLITS[split]} | self.wanted).items() if name in rows.column_names}
        keys = pd.DataFrame({name: texts(rows, name) for name in ("query", "query_id", "example_id", "esci_label", *wanted)})
        for name, values in wanted.items():
            keys = keys[keys[name].isin(values)]
        if keys.empty:
            asked = ", ".join(f"`{name}` {' or '.join(values)}" for name, values in wanted.items())
            raise ValueError(f"{source}: has no row of {asked}; choose another `data.locale` or `data.version`, or remove a column that does not apply.")
        for place in keys.index[keys["query"] == ""]:
            raise ValueError(f"{row_name(source, place)}: `query` is empty; fill it in or remove the row.")
        queries = [" ".join(query.casefold().split()) for query in keys["query"]]
        labels = [class_of_label(label, row_name(source, place)) for place, label in keys["esci_label"].items()]
        return Judgements(source, rows, keys.assign(query=queries, label=labels))

    def check_fields(self, source: str, rows: "datasets.Dataset") -> None:
        for field in self.fields:
            if f"product_{field}" not in rows.column_names:
                way = "give the file of products as `data.products`" if field == "title" else f"leave {field} out of `data.fields`"
                raise ValueError(f"{source}: column `product_{field}` is missing; add it, or {way}.")

    @cached_property
    def catalogue(self) -> tuple["datasets.Dataset", Mapping[tuple[str, ...], int]]:
        """The products, and where each stands."""
        assert self.products is not None
        rows = load_rows(self.products, "train", PRODUCT, self.revision)
        self.check_fields(self.products, rows)
        places: dict[tuple[str, ...], int] = {}
        for place, key in enumerate(zip(*(texts(rows, name) for name in PRODUCT), strict=True)):
            first = places.setdefault(key, place)
            if first != place and any(text(rows[first], f"product_{field}") != text(rows[place], f"product_{field}") for field in self.fields):
                raise ValueError(
                    f"{row_name(self.products, place)}: the `product_id` {key[1]} of the locale {key[0]} stands in row {first + 1} too, with other texts; "
                    "remove one of them."
                )
        return rows, places

    def product(self, row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """What is known of a row's product."""
        if not self.products:
            return row
        rows, places = self.catalogue
        key = tuple(text(row, name) for name in PRODUCT)
        if key not in places:
            raise ValueError(f"{where}: `product_id` {key[1]} of the locale {key[0]} is not in {self.products}; add the product or remove the row.")
        return rows[places[key]]

    def example(self, judge_responses: "Judgements", place: int, label: str, answered: bool) -> Example:
        """One row as a conversation."""
        row, where = judge_responses.rows[place], row_name(judge_responses.source, place)
        product = self.product(row, where)
        if not text(product, "product_title"):
            raise ValueError(f"{where}: `product_title` is empty; fill it in or remove the row.")
        response = {"answer": label}
        if self.target == "cot" and answered:
            if not text(row, self.rationale):
                raise ValueError(f"{where}: `{self.rationale}` is empty; fill it in, remove the row, or use `target: label`.")
            response = {"step_by_step_thinking": text(row, self.rationale), **response}
        told = {FIELDS[field]: text(product, f"product_{field}")[: self.max_field_chars] for field in self.fields}
        fill = {"query": text(row, "query"), "product": "\n".join(f"{name}: {value}" for name, value in told.items() if value)}
        response_text = json.dumps(response, ensure_ascii=False)
        return Example.from_prompt(fill_in(self.prompt["user"], fill), response_text, self.prompt.get("system"), {"where": where, "answer": label})


class Judgements(NamedTuple):
    """A file, and of those of its rows that are used the query, the ids and the class; the index is their place in the file."""

    source: str
    rows: "datasets.Dataset"
    keys: "pd.DataFrame"


def first(keys: "pd.DataFrame", size: int | None) -> "pd.DataFrame":
    """At most so many rows, of the queries whose hash comes first; in the order of the file."""
    if size is None:
        return keys
    rank = [hashlib.sha256(f"first\n{query}".encode()).digest() for query in keys["query"]]
    return keys.iloc[sorted(sorted(range(len(keys)), key=rank.__getitem__)[:size])]


def check_ids(files: Iterable[Judgements]) -> None:
    """Refuse one example with two classes."""
    seen: dict[str, tuple[str, str]] = {"": ("", "")}
    for source, _, keys in files:
        for place, name, label in zip(keys.index, keys["example_id"], keys["label"], strict=True):
            known, there = seen.setdefault(name, (label, row_name(source, place)))
            if name and known != label:
                raise ValueError(
                    f"{row_name(source, place)}: `esci_label` is {label}, but {known} in {there}, of the same `example_id` {name}; remove one of them."
                )


def class_of_label(label: str, where: str) -> str:
    for letter, name in CLASSES.items():
        if label == letter or label.lower() == name.lower():
            return letter
    raise ValueError(f"{where}: `esci_label` must be E, S, C, I, or one of {', '.join(CLASSES.values())}, got {label!r:.80}; correct it or remove the row.")


def no_rationale(source: str, column: str) -> ValueError:
    return ValueError(
        f"{source}: column `{column}` is missing, which `target: cot` learns (published rows have none); "
        "give a file of your own that has it (`data.train`), name another column (`data.rationale`), or use `data.target: label`."
    )


def texts(rows: "datasets.Dataset", column: str) -> list[str]:
    """A column as texts, "" where there is nothing or no such column."""
    return [as_text(value) for value in rows[column][:]] if column in rows.column_names else [""] * len(rows)


def text(row: Mapping[str, Any], column: str) -> str:
    return as_text(row[column])


def as_text(value: Any) -> str:
    """A whole number as such: a column of them with one missing becomes one of floats on its way through pandas."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return "" if value is None else str(value).strip()
