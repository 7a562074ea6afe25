"""Any table of prompts and responses, or of conversations.

A row of ``train.jsonl`` with the default columns, and one with ``messages``:

    {"prompt": "What is the capital of France?", "response": "Paris"}
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lit_talr.data.example import Example, Message, Split
from lit_talr.data.rows import load_rows
from lit_talr.domains.base import DomainDataModule
from lit_talr.domains.rows import Row, named_rows, require_text
from lit_talr.metrics.exact_match import ExactMatch


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
        turns: Which assistant turns of a conversation are learned: ``all``, or only the ``last``.
        system: A system turn put before every prompt.

    Raises:
        ValueError: For a split without a file, and by file, row and column for a missing, empty or malformed value.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source_name = self.train or self.val or self.test or ""

    def metric(self) -> ExactMatch:
        return ExactMatch()

    def examples(self, split: Split) -> Sequence[Example]:
        source: str | None = getattr(self, split)
        if source is None:
            raise ValueError(f"`data.{split}` is missing: give the file or hub name of the {split} rows.")
        columns = [self.messages] if self.messages else [self.prompt, self.response]
        rows = load_rows(source, "validation" if split == "val" else split, columns, self.revision)
        return [
            self.conversation(row[self.messages], where) if self.messages else self.prompt_and_response(row, where) for row, where in named_rows(source, rows)
        ]

    def prompt_and_response(self, row: Row, where: str) -> Example:
        prompt, response = (require_text(row[column], column, where) for column in (self.prompt, self.response))
        return Example.from_prompt(prompt, response, self.system, {"where": where, "answer": response})

    def conversation(self, turns: object, where: str) -> Example:
        if (
            not isinstance(turns, list)
            or not turns
            or not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) and turn.get("role") for turn in turns)
        ):
            raise ValueError(f"{where}: `{self.messages}` must be a list of turns with the texts `role` and `content`, got {turns!r:.80}.")
        messages = [Message(role="system", content=self.system)] if self.system and turns[0]["role"] != "system" else []
        messages += [Message(role=turn["role"], content=turn["content"]) for turn in turns]
        assistant = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not assistant:
            raise ValueError(f"{where}: `{self.messages}` has no turn of the role `assistant`, so there is nothing to learn.")
        supervised = tuple(assistant if self.turns == "all" else assistant[-1:])
        return Example(messages[: supervised[-1] + 1], supervised, {"where": where, "answer": messages[supervised[-1]]["content"]})
