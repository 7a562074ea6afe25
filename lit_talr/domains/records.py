"""Any table of prompts and responses, or of conversations.

A row of ``train.jsonl`` with the default columns, and one with ``messages``:

    {"prompt": "What is the capital of France?", "response": "Paris"}
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Message, Split
from lit_talr.data.rows import load_rows, row_name
from lit_talr.domains.base import DomainDataModule
from lit_talr.metrics.exact_match import ExactMatch


class Records(DomainDataModule):
    """Your own data: JSONL, CSV, Parquet, or a data set of the hub; answers are scored by exact match.

    Args:
        tokenizer: Folder or hub name; on the command line it is that of the model.
        tokenizer_revision: Commit, tag or branch of a hub tokenizer; likewise.
        encoding: How examples become tokens.
        batching: How examples become optimizer steps.
        train: File or hub name of the training rows.
        val: Of the validation rows.
        test: Of the test rows.
        revision: Commit, tag or branch of hub data sets.
        prompt: Column of the prompt.
        response: Column of the response.
        messages: Column of whole conversations (a list of ``role`` and ``content``), instead of prompt and response.
        turns: Which assistant turns of a conversation are learned: ``all``, or only the ``last``.
        system: A system turn put before every prompt.

    Raises:
        ValueError: For a split without a file, and by file, row and column for a missing, empty or malformed value.
    """

    def __init__(
        self,
        tokenizer: str,
        tokenizer_revision: str | None = None,
        encoding: Encoding = Encoding(),
        batching: Batching = Batching(),
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        revision: str | None = None,
        prompt: str = "prompt",
        response: str = "response",
        messages: str | None = None,
        turns: Literal["all", "last"] = "last",
        system: str | None = None,
    ) -> None:
        super().__init__(tokenizer, tokenizer_revision, encoding, batching)
        self.files: dict[Split, str | None] = {"train": train, "val": val, "test": test}
        self.source_name = train or val or test or ""
        self.revision = revision
        self.prompt_column = prompt
        self.response_column = response
        self.messages_column = messages
        self.turns = turns
        self.system = system

    def metric(self) -> ExactMatch:
        return ExactMatch()

    def examples(self, split: Split) -> Sequence[Example]:
        source = self.files[split]
        if source is None:
            raise ValueError(f"`data.{split}` is missing: give the file or hub name of the {split} rows.")
        columns = [self.messages_column] if self.messages_column else [self.prompt_column, self.response_column]
        rows = load_rows(source, {"train": "train", "val": "validation", "test": "test"}[split], columns, self.revision)
        read = self.conversation if self.messages_column else self.prompt_and_response
        return [read(row, row_name(source, index)) for index, row in enumerate(rows)]

    def prompt_and_response(self, row: Mapping[str, Any], where: str) -> Example:
        for column in (self.prompt_column, self.response_column):
            if not isinstance(row[column], str) or not row[column].strip():
                raise ValueError(f"{where}: `{column}` must be a text that is not empty, got {row[column]!r:.80}.")
        prompt, response = row[self.prompt_column], row[self.response_column]
        return Example.from_prompt(prompt, response, self.system, {"where": where, "answer": response})

    def conversation(self, row: Mapping[str, Any], where: str) -> Example:
        column = self.messages_column
        turns = row[column] if column else None
        if (
            not isinstance(turns, list)
            or not turns
            or not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) and turn.get("role") for turn in turns)
        ):
            raise ValueError(f"{where}: `{column}` must be a list of turns with the texts `role` and `content`, got {turns!r:.80}.")
        messages = [Message(role="system", content=self.system)] if self.system and turns[0]["role"] != "system" else []
        messages += [Message(role=turn["role"], content=turn["content"]) for turn in turns]
        assistant = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not assistant:
            raise ValueError(f"{where}: `{column}` has no turn of the role `assistant`, so there is nothing to learn.")
        supervised = tuple(assistant if self.turns == "all" else assistant[-1:])
        return Example(messages[: supervised[-1] + 1], supervised, {"where": where, "answer": messages[supervised[-1]]["content"]})
