"""Any table of prompts and responses, or of conversations.

A row of ``train.jsonl`` with the default columns, and one with ``messages``:

    {"prompt": "What is the capital of France?", "response": "Paris"}
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

A turn may also have what its chat template reads: ``reasoning_content``, ``tool_calls``, ``tool_call_id``, ``name``, and a list of text parts as ``content``.
An assistant turn may say by ``train`` (true or false) or ``weight`` (0 or above) whether it is learned and how much it weighs, and give parts of its content
``weights``, ``[[start, end, weight], ...]`` in characters. A row may have ``tools`` (JSON schemas) and
``chat_template_kwargs`` (arguments of the chat template), as objects or as JSON text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lit_talr.data.example import Example, Split, Weight
from lit_talr.data.rows import load_rows, missing_column, show_columns
from lit_talr.data.weights import read_spans, read_weight
from lit_talr.domains.base import DomainDataModule
from lit_talr.domains.conversations import conversation, read_object
from lit_talr.domains.rows import Row, named_rows, require_text
from lit_talr.metrics.exact_match import ExactMatch

if TYPE_CHECKING:
    import datasets

CONVERSATIONS = ("messages", "conversations", "conversation")
"""Usual names of a column of whole conversations."""
ALWAYS = ("tools", "chat_template_kwargs")
"""Columns that are read wherever they are."""


@dataclass(eq=False, repr=False)
class Records(DomainDataModule):
    """Your own data: JSONL, CSV, Parquet, or a data set of the hub; responses are scored by exact match.

    Args:
        train: File or hub name of the training rows.
        val: File or hub name of the validation rows.
        test: File or hub name of the test rows.
        revision: Commit, tag or branch of hub data sets.
        prompt: Column of the prompt.
        response: Column of the response.
        messages: Column of whole conversations (a list of ``role`` and ``content``), instead of prompt and response.
        turns: Which assistant turns of a conversation are learned: ``all``, or only the ``last``. A turn's own ``train``, ``weight`` or ``weights`` goes first.
        system: A system turn put before every prompt.
        weight: Column of the row's weight, above 0 and finite, which multiplies the loss's weights of all its tokens. Every training row needs one.
        span_weights: Column of weights of parts of the response, [[start, end, weight], ...] in characters, as a list or as JSON text; empty for none. In
            conversations a turn has them as ``weights``.

    Raises:
        ValueError: For one column as prompt and response, a split without a file, and by file, row and column for a missing, empty or malformed value.
    """

    train: str | None = None
    val: str | None = None
    test: str | None = None
    revision: str | None = None
    prompt: str = "prompt"
    response: str = "response"
    messages: str | None = None
    turns: Literal["all", "last"] = "last"
    system: str | None = None
    weight: str | None = None
    span_weights: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.messages is None and self.prompt == self.response:
            raise ValueError(f"`data.prompt` and `data.response` must name two columns, got `{self.prompt}` for both; the model would learn to repeat.")
        if self.messages and self.span_weights:
            raise ValueError(f"`data.span_weights` is for prompts and responses, got {self.span_weights!r} beside `data.messages`; give a turn `weights`.")
        self.source_name = self.train or self.val or self.test or ""

    def metric(self) -> ExactMatch:
        return ExactMatch()

    def test_examples(self) -> Sequence[Example]:
        return self.examples("test") if self.test is not None and Path(self.test).is_file() else ()

    def examples(self, split: Split) -> Sequence[Example]:
        source: str | None = getattr(self, split)
        if source is None:
            raise ValueError(f"`data.{split}` is missing: give the file or hub name of the {split} rows.")
        rows = load_rows(source, "validation" if split == "val" else split, (), self.revision)
        self.check_columns(rows, source, self.weighted if split == "train" else ())
        examples, trailing = [], []
        for row, where in named_rows(source, rows):
            examples.append(self.with_columns(self.example(row, where), row, where))
            if self.messages and row[self.messages][-1]["role"] != "assistant":
                trailing.append(where)
        columns = [self.name_unread(rows.column_names, source)] if split == "train" else []
        self.unread[split] = [*filter(None, columns), *count_trailing(trailing, len(rows), source)]
        return examples

    def check_columns(self, rows: "datasets.Dataset", source: str, weighted: Iterable[str]) -> None:
        """Refuses a file without a column that is read.

        Raises:
            ValueError: Naming the option that says which column it is, the separator of a CSV file that is no comma, or the key that holds the rows.
        """
        names = rows.column_names
        for option in ("messages",) if self.messages else ("prompt", "response"):
            if (column := getattr(self, option)) not in names:
                turns = next((name for name in CONVERSATIONS if name in names and not self.messages), None)
                way_out = f"if `{turns}` holds conversations, give `--data.messages {turns}`" if turns else f"say which with `--data.{option}`"
                raise ValueError(f"{source}: {missing_column(column, rows, way_out)}")
        for column in weighted:
            if column not in names:
                raise ValueError(f"{source}: {missing_column(column, rows, 'correct `data.weight` or `data.span_weights`, or leave it out')}")

    def name_unread(self, names: Sequence[str], source: str) -> str | None:
        """The remark on columns that are not read, such as ``input`` next to ``instruction`` and ``output``."""
        unread = show_columns([name for name in names if name not in (*self.needed, *self.weighted, *ALWAYS)])
        return f"{source}: these columns are not read: {unread}; join into `{self.messages or self.prompt}` what the model should see." if unread else None

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that every row needs."""
        return (self.messages,) if self.messages else (self.prompt, self.response)

    @property
    def weighted(self) -> tuple[str, ...]:
        """The columns of weights."""
        return tuple(filter(None, (self.weight, self.span_weights)))

    def example(self, row: Row, where: str) -> Example:
        others = [name for name, value in row.items() if value is not None and name not in (*self.needed, *self.weighted, *ALWAYS)]
        if others and (missing := next((column for column in self.needed if row[column] is None), None)):
            raise ValueError(f"{where} has no `{missing}`; it has {show_columns(others)}; fill it in, name it as the other rows do, or remove the row.")
        return conversation(row[self.messages], self.messages, self.turns, self.system, where) if self.messages else self.prompt_and_response(row, where)

    def with_columns(self, example: Example, row: Row, where: str) -> Example:
        """The example with the row's tools, arguments of the chat template, and weights."""
        tools, arguments = (read_object(row.get(column), column, kind, where) for column, kind in zip(ALWAYS, (list, dict), strict=True))
        example = replace(example, tools=tools or (), template_arguments=arguments or {}) if tools or arguments else example
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

    def prompt_and_response(self, row: Row, where: str) -> Example:
        prompt, response = (require_text(row[column], column, where) for column in (self.prompt, self.response))
        return Example.from_prompt(prompt, response, self.system, {"where": where, "answer": response})


def count_trailing(trailing: Sequence[str], num_rows: int, source: str) -> list[str]:
    """The remark on conversations whose last turn is not a response, by the names of their rows."""
    if not trailing:
        return []
    return [
        f"{source}: the last turn of {len(trailing):,} of its {num_rows:,} rows is not the assistant's, and what follows the last learned response is not "
        f"read (the first: {trailing[0].removeprefix(f'{source}: ')}); remove it, or add the response."
    ]
