"""Any table of prompts and responses, or of conversations.

A row of ``train.jsonl`` with the default columns, and one with ``messages``:

    {"prompt": "What is the capital of France?", "response": "Paris"}
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

A turn may also have what its chat template reads: ``reasoning_content``, ``tool_calls``, ``tool_call_id``, ``name``, and a list of text parts as ``content``.
An assistant turn may say by ``train`` (true or false) or ``weight`` (0 or above) whether it is learned and how much it weighs, and give parts of its content
``weights``, ``[[start, end, weight], ...]`` in characters. A row may have ``tools`` (JSON schemas) and
``chat_template_kwargs`` (arguments of the chat template), as objects or as JSON text.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lit_talr.data.example import Example, Split, Weight
from lit_talr.data.messages import RENAMED
from lit_talr.data.rows import load_rows, missing_column, show_columns
from lit_talr.data.sources import find_sources, missing_shards
from lit_talr.data.weights import read_spans, read_weight
from lit_talr.domains.base import DomainDataModule, row_hash, turns_text
from lit_talr.domains.conversations import conversation, read_object
from lit_talr.domains.rows import Row, held_out, named_rows, require_text
from lit_talr.metrics.base import DomainMetric
from lit_talr.metrics.by_group import ByGroup
from lit_talr.metrics.exact_match import ExactMatch
from lit_talr.utils.errors import check_in

if TYPE_CHECKING:
    import datasets

Files = list[str] | str | None
CONVERSATIONS = ("messages", "conversations", "conversation")
"""Usual names of a column of whole conversations."""
ALWAYS = ("tools", "chat_template_kwargs")
"""Columns that are read wherever they are."""
OPTIONAL = ("answer", "system_column", "group")
"""Options that name a column which not all data have."""
ASSISTANT = ("assistant", *(name for name, role in RENAMED.items() if role == "assistant"))
MOST_GROUPS = 100


@dataclass(eq=False, repr=False)
class Records(DomainDataModule):
    """Your own data: JSONL, JSON, CSV, TSV, Parquet, a folder saved by ``datasets``, or a data set of the hub; ``metric`` scores the responses.

    Args:
        train: File, folder or hub name of the training rows; several as a list, or by a pattern such as ``data/train-*.parquet``.
        val: The same for the validation rows; without any, and without ``validation``, a run never validates.
        test: The same for the test rows.
        revision: Commit, tag or branch of hub data sets.
        prompt: Column of the prompt; of several, their texts are joined by empty lines, and only the first must not be empty.
        response: Column of the response.
        messages: Column of whole conversations (a list of ``role`` and ``content``, or of ``from`` and ``value``), instead of prompt and response.
        turns: Which assistant turns of a conversation are learned: ``all``, or only the ``last``. A turn's own ``train``, ``weight`` or ``weights`` goes first.
        system: A system turn put before every prompt that has none.
        weight: Column of the row's weight, above 0 and finite, which multiplies the loss's weights of all its tokens. Every training row needs one.
        span_weights: Column of weights of parts of the response, [[start, end, weight], ...] in characters, as a list or as JSON text; empty for none. In
            conversations a turn has them as ``weights``.
        validation: Share of the training rows that validates instead, in [0, 1), in place of ``val``. The hash of a row's prompt decides, so rows of one
            prompt stay together.
        split_seed: Selects which rows these are.
        overlap: Treatment of training rows that are validation or test rows too, and of validation rows that are test rows: ``keep`` counts and names them,
            ``drop`` leaves them out and counts them.
        metric: How responses are scored: ``ExactMatch``, ``NumericMatch``, ``Choice``, ``MathAnswer``, ``Contains``, ``F1``, ``ClassScores`` or your own.
        answer: Column of the right answer, a text or a number, or a list of several of which any counts; by default the response is the answer.
        system_column: Column of the row's system turn; where it is empty, ``system`` counts.
        group: Column of a name by which responses are scored in groups too, at most 100 of them.

    Raises:
        ValueError: For one column as prompt and response, ``val`` beside ``validation``, a share out of range, a split without a file, a pattern without a
            file, and by file, row and column for a missing, empty or malformed value, and for a test row that the metric cannot score.
    """

    train: Files = None
    val: Files = None
    test: Files = None
    revision: str | None = None
    prompt: list[str] | str = "prompt"
    response: str = "response"
    messages: str | None = None
    turns: Literal["all", "last"] = "last"
    system: str | None = None
    weight: str | None = None
    span_weights: str | None = None
    validation: float = field(default=0.0, kw_only=True)
    split_seed: int = field(default=0, kw_only=True)
    overlap: Literal["keep", "drop"] = field(default="keep", kw_only=True)
    metric: Callable[[], DomainMetric] = field(default=ExactMatch, kw_only=True)  # type: ignore[assignment]  # called like the method
    answer: str | None = field(default=None, kw_only=True)
    system_column: str | None = field(default=None, kw_only=True)
    group: str | None = field(default=None, kw_only=True)
    without_shared = "remove them from one of the two, or give `data.overlap: drop`"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_in("data.validation", self.validation, "[0, 1)", "it is the share of the training rows that validates instead")
        self.prompts_of_row = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)
        if self.messages is None and (self.response in self.prompts_of_row or not self.prompts_of_row):
            shown = show_columns(self.prompts_of_row) or "none"
            raise ValueError(f"`data.prompt` and `data.response` must name two columns, got {shown} and `{self.response}`; the model would learn to repeat.")
        if self.messages and self.span_weights:
            raise ValueError(f"`data.span_weights` is for prompts and responses, got {self.span_weights!r} beside `data.messages`; give a turn `weights`.")
        if self.validation and self.val is not None:
            raise ValueError(f"`data.validation` is {self.validation} beside `data.val`, which has the validation rows; leave one out.")
        self.source_name = ", ".join(self.files_named("train") or self.files_named("val") or self.files_named("test"))
        self.groups: set[str] = set()  # those of the rows that were read
        if self.group is not None:
            self.metric = partial(ByGroup, self.metric, self.groups)

    def files_named(self, split: Split) -> list[str]:
        """The sources of a split as the user gave them."""
        given: Files = getattr(self, split)
        return [] if given is None else [given] if isinstance(given, str) else list(given)

    @property
    def has_validation(self) -> bool:
        return self.val is not None or self.validation > 0

    def test_examples(self) -> Sequence[Example]:
        if self.overlap == "drop":  # nothing is shared
            return ()
        local = self.test is not None and all(Path(source).exists() for source in find_sources(self.test, "data.test"))
        return self.examples("test") if local else ()

    def examples(self, split: Split) -> Sequence[Example]:
        if split != "test" and self.validation:
            is_validation = held_out([prompt_text(example) for example in self.splittable], self.validation, self.split_seed)
            examples = [example for example, held in zip(self.splittable, is_validation, strict=True) if held == (split == "val")]
            if split == "train":
                self.counts["train"]["validate"] += len(self.splittable) - len(examples)
        else:
            examples = self.read(split)
        if split == "test":
            self.check_scored(examples)
        elif self.overlap == "drop":
            examples = self.leave_out_shared(split, examples)
        return examples

    @cached_property
    def splittable(self) -> list[Example]:
        """The rows of the training file, which are for training and validation."""
        return self.read("train")

    def read(self, split: Split) -> list[Example]:
        """Reads the examples of a split's files.

        Raises:
            ValueError: By file, row and column.
        """
        if not self.files_named(split):
            raise ValueError(f"`data.{split}` is missing: give the file or hub name of the {split} rows.")
        sources = find_sources(self.files_named(split), f"data.{split}")
        examples: list[Example] = []
        self.unread[split] = missing_shards(sources)
        for source in sources:
            examples += self.read_source(source, split)
        self.groups |= {example.meta["group"] for example in examples if "group" in example.meta}
        if len(self.groups) > MOST_GROUPS:
            raise ValueError(f"`data.group`: `{self.group}` has {len(self.groups):,} values, more than {MOST_GROUPS} groups; name a column with fewer.")
        return examples

    def read_source(self, source: str, split: Split) -> Iterator[Example]:
        """Yields the examples of one file, and notes what of it is not read."""
        rows = load_rows(source, "validation" if split == "val" else split, (), self.revision)
        self.check_columns(rows, source, split)
        trailing = []
        for row, where in named_rows(source, rows):
            yield self.with_columns(self.example(row, where), row, where, split)
            if self.messages and (row[self.messages][-1].get("role") or row[self.messages][-1].get("from")) not in ASSISTANT:
                trailing.append(where)
        columns = [self.name_unread(rows.column_names, source)] if split == "train" else []
        self.unread[split] += [*filter(None, columns), *count_trailing(trailing, len(rows), source)]

    def check_scored(self, examples: Sequence[Example]) -> None:
        """Refuses a row that the metric cannot score, before anything is generated."""
        try:
            self.metric().update([""] * len(examples), examples)
        except ValueError as error:
            where = f"column `{self.answer}`" if self.answer else "response, unless `data.answer` names the column of another"
            raise ValueError(f"{error} (`data.metric` reads as `answer` the {where}.)") from error

    def leave_out_shared(self, split: Split, examples: Sequence[Example]) -> list[Example]:
        """Leaves out the rows that other splits have too."""
        others: list[Split] = ["test"] if split == "val" else ["val", "test"]
        for other in others:
            if other == "val" and not self.val:  # those cut from the training file share no prompt with it
                continue
            hashes = self.hashes(other)
            kept = [example for example in examples if row_hash(example) not in hashes]
            self.counts[split][f"also in {other}"] += len(examples) - len(kept)
            examples = kept
        return list(examples)

    def hashes(self, split: Split) -> set[int]:
        """Those of a split's rows; none where it has no file."""
        unread = self.unread[split]
        hashes = set(map(row_hash, self.read(split))) if self.files_named(split) else set()
        self.unread[split] = unread  # what was not read of it is said where it is used
        return hashes

    def check_columns(self, rows: "datasets.Dataset", source: str, split: Split) -> None:
        """Refuses a file without a column that is read.

        Raises:
            ValueError: Naming the option that says which column it is, or the key that holds the rows.
        """
        names = rows.column_names
        options = {self.messages: "messages"} if self.messages else {**dict.fromkeys(self.prompts_of_row, "prompt"), self.response: "response"}
        options |= {column: option for option in OPTIONAL if (column := getattr(self, option)) and (option == "system_column" or split == "test")}
        for column, option in options.items():
            if column not in names:
                turns = next((name for name in CONVERSATIONS if name in names and not self.messages), None)
                way_out = f"if `{turns}` holds conversations, give `--data.messages {turns}`" if turns else f"say which with `--data.{option}`"
                raise ValueError(f"{source}: {missing_column(column, rows, way_out)}")
        for column in self.weighted if split == "train" else ():
            if column not in names:
                raise ValueError(f"{source}: {missing_column(column, rows, 'correct `data.weight` or `data.span_weights`, or leave it out')}")

    def name_unread(self, names: Sequence[str], source: str) -> str | None:
        """The remark on columns that are not read, such as ``input`` next to ``instruction`` and ``output``."""
        unread = show_columns([name for name in names if name not in self.known])
        way_out = "" if self.messages else f" (or give `data.prompt` a list, [{', '.join(self.prompts_of_row)}, ...])"
        return (
            f"{source}: these columns are not read: {unread}; join into `{self.messages or self.prompts_of_row[0]}` what the model should see{way_out}."
            if unread
            else None
        )

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that every row needs."""
        return (self.messages,) if self.messages else (self.prompts_of_row[0], self.response)

    @property
    def known(self) -> tuple[str, ...]:
        """The columns that are read."""
        optional = filter(None, (getattr(self, option) for option in OPTIONAL))
        return (*self.needed, *(() if self.messages else self.prompts_of_row), *self.weighted, *optional, *ALWAYS)

    @property
    def weighted(self) -> tuple[str, ...]:
        """The columns of weights."""
        return tuple(filter(None, (self.weight, self.span_weights)))

    def example(self, row: Row, where: str) -> Example:
        others = [name for name, value in row.items() if value is not None and name not in self.known]
        if others and (missing := next((column for column in self.needed if row[column] is None), None)):
            raise ValueError(f"{where} has no `{missing}`; it has {show_columns(others)}; fill it in, name it as the other rows do, or remove the row.")
        system, own = self.system, row.get(self.system_column) if self.system_column else None
        if own is not None and (not isinstance(own, str) or own.strip()):
            system = require_text(own, str(self.system_column), where)
        if not self.messages:
            return self.prompt_and_response(row, where, system)
        example = conversation(row[self.messages], self.messages, self.turns, system, where)
        if system is not self.system and example.messages[0]["content"] != system:
            raise ValueError(f"{where} has a system turn in `{self.messages}` and another in `{self.system_column}`; leave one out.")
        return example

    def with_columns(self, example: Example, row: Row, where: str, split: Split) -> Example:
        """The example with the row's tools, arguments of the chat template, and weights."""
        tools, arguments = (read_object(row.get(column), column, kind, where) for column, kind in zip(ALWAYS, (list, dict), strict=True))
        example = replace(example, tools=tools or (), template_arguments=arguments or {}) if tools or arguments else example
        for column, name, read in ((self.answer, "answer", read_answer), (self.group, "group", read_name)):
            if column is not None and column in row and (split == "test" or row[column] not in (None, "")):  # only test rows need them
                example = replace(example, meta={**example.meta, name: read(row[column], column, where)})
        try:
            if self.weight is not None and self.weight in row:
                example = replace(example, weight=read_weight(row[self.weight], self.weight, "fill it in, or remove the row"))
            if self.span_weights is not None and self.span_weights in row:
                turn = example.supervised[-1]
                spans = read_spans(row[self.span_weights], self.span_weights, example.messages[turn]["content"])
                example = replace(example, weights=[Weight(turn, value, (start, end)) for start, end, value in spans])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return example

    def prompt_and_response(self, row: Row, where: str, system: str | None) -> Example:
        first, *others = self.prompts_of_row
        prompts = [require_text(row[first], first, where), *(require_text(row[column], column, where) for column in others if row[column] not in (None, ""))]
        response = require_text(row[self.response], self.response, where)
        return Example.from_prompt("\n\n".join(prompts), response, system, {"where": where, "answer": response})


def prompt_text(example: Example) -> str:
    """A row's prompt as one text, the same on every machine; the whole row where it has no prompt."""
    return turns_text(example.prompt or example.messages)


def read_answer(value: object, column: str, where: str) -> str | list[str]:
    """A right answer, or several.

    Raises:
        ValueError: By row and column.
    """
    if isinstance(value, list) and value:
        return [read_name(one, column, where) for one in value]
    return read_name(value, column, where)


def read_name(value: object, column: str, where: str) -> str:
    """A text or a number as a text.

    Raises:
        ValueError: By row and column.
    """
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else require_text(value, column, where)


def count_trailing(trailing: Sequence[str], num_rows: int, source: str) -> list[str]:
    """The remark on conversations whose last turn is not a response, by the names of their rows."""
    if not trailing:
        return []
    return [
        f"{source}: the last turn of {len(trailing):,} of its {num_rows:,} rows is not the assistant's, and what follows the last learned response is not "
        f"read (the first: {trailing[0].removeprefix(f'{source}: ')}); remove it, or add the response."
    ]
