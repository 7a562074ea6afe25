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
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lit_talr.data.example import Example, Split
from lit_talr.data.rows import load_rows
from lit_talr.data.table import row_name
from lit_talr.domains.published import PublishedSplits
from lit_talr.domains.rows import Row, held_out, require_text
from lit_talr.metrics.classes import ClassScores
from lit_talr.utils.errors import check_least

if TYPE_CHECKING:
    import datasets
    import pandas as pd  # half a second at start-up

CLASSES = {"E": "Exact", "S": "Substitute", "C": "Complement", "I": "Irrelevant"}
LETTERS = {**dict(zip(CLASSES, CLASSES, strict=True)), **{name.lower(): letter for letter, name in CLASSES.items()}}
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
"""Our own words. The paper's prompt is not known."""


class Judgements(NamedTuple):
    """The rows of a file, and for those that are used their query, ids and class, indexed by their position in the file."""

    source: str
    rows: "datasets.Dataset"
    keys: "pd.DataFrame"


@dataclass(eq=False, repr=False)
class ESCI(PublishedSplits):
    """Product search: read a query and a product, and tell whether it is an exact match, a substitute, a complement, or irrelevant (E, S, C, I).

    Of a file with the columns ``split``, ``product_locale`` or ``large_version`` (``small_version``) only the rows of the split, locale and version are used.
    Training and validation rows whose query (ignoring case and blanks) or whose id is also in the test set are left out and counted. What the TALR paper
    used (subset, prompt, product fields, rationales, score) is not known: all defaults are our choice.

    Args:
        target: What is learned: ``label``, the class alone, or ``cot``, a rationale and the class; published rows have no rationale.
        source: The data set's name on the hub. The default is others' copy of the published examples joined with their products; it is untested.
        val: A local file of validation rows; by default they are split from the training rows by the hash of the query.
        products: A file of the products, where the other files have ``product_locale`` and ``product_id`` in place of their texts, as published.
        rationale: The column that ``target: cot`` learns before the class.
        locale: The marketplace whose rows are used.
        version: ``large``, of the task to classify products, or ``small``, its harder queries.
        fields: The fields of the product that the prompt shows where they are not empty; ``title`` is required. (The data set's baseline reads it alone.)
        max_field_chars: Characters at which each field is cut, at least 1.
        max_rows: Largest number of training rows, held-out rows included: those of the queries whose hash comes first, since the file is sorted by query.
        max_test_rows: Likewise for the test rows.
        prompt_file: A YAML file with a prompt of your own: the text ``user``, which holds {query} and {product}, and optionally ``system``.

    Raises:
        ValueError: For a value out of range, and ``cot`` without rationales; by file, row and column for a missing column, an empty text, a label that is no
            class, a product that is missing or has two texts, and an ``example_id`` with two labels.
    """

    target: Literal["label", "cot"] = "label"
    source: str = PUBLISHED
    val: str | None = None
    products: str | None = None
    rationale: str = "rationale"
    locale: Literal["us", "es", "jp"] = "us"
    version: Literal["large", "small"] = "large"
    fields: Sequence[Field] = tuple(FIELDS)
    max_field_chars: int = 500
    max_test_rows: int | None = None
    license = "Apache-2.0"
    prompts_by_target = PROMPTS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least("max_test_rows", self.max_test_rows, 1, "leave it out for all rows")
        check_least("max_field_chars", self.max_field_chars, 1)
        if "title" not in self.fields or len(set(self.fields)) < len(self.fields):
            raise ValueError(f"`fields` must hold `title`, and none twice, got {list(self.fields)}.")
        if self.target == "cot" and self.source_name == PUBLISHED:
            raise self.no_rationale(PUBLISHED)

    def no_rationale(self, source: str) -> ValueError:
        return ValueError(
            f"{source}: column `{self.rationale}` is missing, which `target: cot` learns (published rows have none); "
            "give a file of your own that has it (`data.train`), name another column (`data.rationale`), or use `data.target: label`."
        )

    def metric(self) -> ClassScores:
        return ClassScores(CLASSES)

    def examples(self, split: Split) -> Sequence[Example]:
        splits_training_file = split != "test" and not self.val
        judgements = self.read_judgements("train" if splits_training_file else split)
        others: dict[Split, Judgements] = {} if split == "test" else {"test": self.read_judgements("test")}
        if split == "train" and self.val:
            others["val"] = self.read_judgements("val")
        check_ids([judgements, *others.values()])
        keys = first_queries(judgements.keys, {"train": self.max_rows, "val": None if self.val else self.max_rows, "test": self.max_test_rows}[split])
        if splits_training_file:
            keys = keys[[held == (split == "val") for held in held_out(keys["query"], self.validation, self.split_seed)]]
        for name, other in others.items():
            overlap = keys["query"].isin(other.keys["query"])
            for number in ("query_id", "example_id"):
                overlap |= keys[number].isin({*other.keys[number]} - {""})
            self.counts[split][f"query also in {name}"] += int(overlap.sum())
            keys = keys[~overlap]
        return [self.example(judgements, index, label, split != "test") for index, label in zip(keys.index, keys["label"], strict=True)]

    def read_judgements(self, split: Split) -> Judgements:
        """Reads the rows of a split."""
        import pandas as pd

        source = {"train": self.train, "val": self.val, "test": self.test}[split] or self.source
        rows = load_rows(source, SPLITS[split][0], ("query", "esci_label", *(PRODUCT if self.products else ())), self.revision, self.subset)
        if not self.products:
            self.check_fields(source, rows)
        if self.target == "cot" and split != "test" and self.rationale not in rows.column_names:
            raise self.no_rationale(source)
        wanted = {"split": SPLITS[split], "product_locale": (self.locale,), f"{self.version}_version": ("1",)}
        wanted = {name: values for name, values in wanted.items() if name in rows.column_names}
        keys = pd.DataFrame({name: read_texts(rows, name) for name in ("query", "query_id", "example_id", "esci_label", *wanted)})
        for name, values in wanted.items():
            keys = keys[keys[name].isin(values)]
        if keys.empty:
            filters = ", ".join(f"`{name}` {' or '.join(values)}" for name, values in wanted.items())
            raise ValueError(f"{source}: has no row of {filters}; choose another `data.locale` or `data.version`, or remove a column that does not apply.")
        where = [row_name(source, index) for index in keys.index]
        queries = [" ".join(require_text(query, "query", name).casefold().split()) for query, name in zip(keys["query"], where, strict=True)]
        return Judgements(source, rows, keys.assign(query=queries, label=[*map(class_of_label, keys["esci_label"], where)]))

    def check_fields(self, source: str, rows: "datasets.Dataset") -> None:
        for field in self.fields:
            if f"product_{field}" not in rows.column_names:
                way_out = "give the file of products as `data.products`" if field == "title" else f"leave {field} out of `data.fields`"
                raise ValueError(f"{source}: column `product_{field}` is missing; add it, or {way_out}.")

    @cached_property
    def catalogue(self) -> tuple["datasets.Dataset", Mapping[tuple[str, ...], int]]:
        """The products, and the position of each."""
        assert self.products is not None
        rows = load_rows(self.products, "train", PRODUCT, self.revision)
        self.check_fields(self.products, rows)
        positions: dict[tuple[str, ...], int] = {}
        for index, key in enumerate(zip(*(read_texts(rows, name) for name in PRODUCT), strict=True)):
            first = positions.setdefault(key, index)
            if first != index and self.field_texts(rows[first]) != self.field_texts(rows[index]):
                raise ValueError(
                    f"{row_name(self.products, index)}: the `product_id` {key[1]} of the locale {key[0]} stands in row {first + 1} too, with other texts; "
                    "remove one of them."
                )
        return rows, positions

    def find_product(self, row: Row, where: str) -> Row:
        """Finds the product of a row: in the row itself, or in the file of products."""
        if not self.products:
            return row
        rows, positions = self.catalogue
        key = tuple(as_text(row[name]) for name in PRODUCT)
        if key not in positions:
            raise ValueError(f"{where}: `product_id` {key[1]} of the locale {key[0]} is not in {self.products}; add the product or remove the row.")
        return rows[positions[key]]

    def field_texts(self, product: Row) -> dict[Field, str]:
        return {field: as_text(product[f"product_{field}"]) for field in self.fields}

    def example(self, judgements: Judgements, index: int, label: str, learned: bool) -> Example:
        """Makes a conversation of one row."""
        row, where = judgements.rows[index], row_name(judgements.source, index)
        texts = self.field_texts(self.find_product(row, where))
        require_text(texts["title"], "product_title", where)
        response = {"answer": label}
        if self.target == "cot" and learned:
            way_out = "fill it in, remove the row, or use `target: label`"
            response = {"step_by_step_thinking": require_text(as_text(row[self.rationale]), self.rationale, where, way_out), **response}
        product = "\n".join(f"{FIELDS[field]}: {text[: self.max_field_chars]}" for field, text in texts.items() if text)
        values = {"query": as_text(row["query"]), "product": product}
        return self.conversation(values, json.dumps(response, ensure_ascii=False), {"where": where, "answer": label})


def first_queries(keys: "pd.DataFrame", size: int | None) -> "pd.DataFrame":
    """Selects at most ``size`` rows, those of the queries whose hash comes first, in the order of the file."""
    if size is None:
        return keys
    rank = [hashlib.sha256(f"first\n{query}".encode()).digest() for query in keys["query"]]
    return keys.iloc[sorted(sorted(range(len(keys)), key=rank.__getitem__)[:size])]


def check_ids(files: Iterable[Judgements]) -> None:
    """Refuses one example with two classes."""
    seen: dict[str, tuple[str, str]] = {}
    for source, _, keys in files:
        for index, name, label in zip(keys.index, keys["example_id"], keys["label"], strict=True):
            known, there = seen.setdefault(name, (label, row_name(source, index)))
            if name and known != label:
                raise ValueError(
                    f"{row_name(source, index)}: `esci_label` is {label}, but {known} in {there}, of the same `example_id` {name}; remove one of them."
                )


def class_of_label(label: str, where: str) -> str:
    """Returns the letter of a class, given as a letter or as a name."""
    if letter := LETTERS.get(label, LETTERS.get(label.lower())):
        return letter
    raise ValueError(f"{where}: `esci_label` must be E, S, C, I, or one of {', '.join(CLASSES.values())}, got {label!r:.80}; correct it or remove the row.")


def read_texts(rows: "datasets.Dataset", column: str) -> list[str]:
    """Reads a column as texts, "" where there is no value or no such column."""
    return [as_text(value) for value in rows[column][:]] if column in rows.column_names else [""] * len(rows)


def as_text(value: Any) -> str:
    """Writes a value as text; a whole number without decimals, since pandas turns a column of them into floats where one is missing."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return "" if value is None else str(value).strip()
