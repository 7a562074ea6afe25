"""Domains of published rows: where the rows come from, how they are split, and the prompt."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lit_talr.data.example import Example, Split
from lit_talr.data.rows import load_rows
from lit_talr.domains.base import DomainDataModule
from lit_talr.domains.prompts import PLACEHOLDER, fill_in, read_prompt
from lit_talr.domains.rows import Row, held_out, named_rows
from lit_talr.utils.errors import check_in, check_least

if TYPE_CHECKING:
    import datasets


@dataclass(eq=False, repr=False)
class Published(DomainDataModule):
    """A domain of published rows, from the hub or from files with the published columns.

    Args:
        target: What is learned: ``cot``, the reasoning and the answer, or ``label``, the answer alone.
        source: The data set's name on the hub.
        subset: Its configuration there, where it has several.
        revision: Its commit, tag or branch.
        train: A local JSONL, CSV or Parquet file with the published columns, instead of the hub's training split.
        validation: Share of the training questions (or notes, queries) that is held out for validation, in (0, 1).
        split_seed: Selects which questions are held out.
        max_rows: Use only the first rows of the training file, at least 1; all by default.
        prompt_file: A YAML file with a prompt of your own: the text ``user``, which holds {question}, and optionally ``system``.

    Raises:
        ValueError: For a number out of range, a prompt file without its placeholders, and a missing file, column or value (by file, row and column).
    """

    target: Literal["cot", "label"] = "cot"
    source: str = ""
    subset: str | None = None
    revision: str | None = None
    train: str | None = None
    validation: float = 0.05
    split_seed: int = 0
    max_rows: int | None = None
    prompt_file: Path | None = None
    prompts_by_target: ClassVar[Mapping[str, Mapping[str, str]]]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least("max_rows", self.max_rows, 1, "leave it out for all rows")
        check_in("validation", self.validation, "(0, 1)", "it is the share that is held out of the training rows")
        self.source_name = self.train or self.source
        self.prompt = self.prompts_by_target[self.target]
        if self.prompt_file is not None:
            self.prompt = read_prompt(self.prompt_file, PLACEHOLDER.findall(self.prompt["user"]))

    def load_training_rows(self, columns: Iterable[str]) -> "datasets.Dataset":
        rows = load_rows(self.source_name, "train", columns, self.revision, self.subset)
        return rows.select(range(min(len(rows), self.max_rows or len(rows))))

    def conversation(self, values: Mapping[str, str], response: str, meta: Mapping[str, Any]) -> Example:
        """Fills the prompt with the values of its placeholders."""
        return Example.from_prompt(fill_in(self.prompt["user"], values), response, self.prompt.get("system"), meta)


@dataclass(eq=False, repr=False)
class PublishedSplits(Published):
    """A domain with a published test set.

    Args:
        test: A local file with the published columns, instead of the hub's test split.
    """

    test: str | None = None

    def load_test_rows(self, columns: Iterable[str]) -> "datasets.Dataset":
        return load_rows(self.test or self.source, "test", columns, self.revision, self.subset)

    def test_rows(self, columns: Iterable[str]) -> Iterator[tuple[Row, str]]:
        """Yields the rows of the test set with their names."""
        return named_rows(self.test or self.source, self.load_test_rows(columns))

    def training_rows(
        self, split: Split, columns: Iterable[str], key: str, noun: str, fold: Callable[[object], str] = str, test_columns: Iterable[str] = ()
    ) -> Iterator[tuple[Row, str]]:
        """Yields the rows for training or validation with their names. The hash of the text in ``key`` decides between the two.

        Rows whose ``key`` is also in the test set are left out and counted.

        Args:
            split: ``train`` or ``val``.
            columns: Columns that the training file must have.
            key: The column whose text identifies a question.
            noun: How the count names that text.
            fold: Maps texts that count as the same to one text.
            test_columns: Columns that the test file must have besides ``key``.
        """
        rows = self.load_training_rows(columns)
        in_test = set(map(fold, self.load_test_rows((*test_columns, key))[key]))
        is_validation = held_out(rows[key], self.validation, self.split_seed)
        indices = [index for index, held in enumerate(is_validation) if held == (split == "val")]
        for row, where in named_rows(self.source_name, rows, indices):
            if fold(row[key]) in in_test:
                self.counts[split][f"{noun} also in test"] += 1
            else:
                yield row, where
