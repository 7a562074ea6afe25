"""GSM8K (Cobbe et al., arXiv:2110.14168, https://github.com/openai/grade-school-math), MIT: word problems of grade school.

A row as published (this one is invented); ``<<...>>`` are marks for a calculator:

    question: A box holds 12 eggs. How many eggs do 3 boxes hold, if 4 eggs are broken?
    answer:   The boxes hold 12*3=<<12*3=36>>36 eggs.
              Of these 36-4=<<36-4=32>>32 are whole.
              #### 32
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Split
from lit_talr.data.rows import load_rows, row_name
from lit_talr.domains.base import DomainDataModule, folded, held_out
from lit_talr.domains.prompts import fill_in, read_prompt
from lit_talr.metrics.numeric_match import NumericMatch, number

QUESTION, ANSWER = "question", "answer"
CALCULATOR_MARK = re.compile(r"<<[^<>]*+>>")
PROMPTS = {
    "cot": {"user": "{question}\n\nThink step by step. End with a line of the form\n#### <the answer, as a number alone>"},
    "label": {"user": "{question}\n\nReply, without any reasoning, with one line of the form\n#### <the answer, as a number alone>"},
}
"""In our own words, of the form of the published answers; the benchmark has no prompt of its own."""


class GSM8K(DomainDataModule):
    """Word problems of grade school: read one, reason, and give a number. A domain, or a suite of ``GeneralScore``.

    Validation rows are split from the training set by the hash of the question. Training and validation rows whose question also stands in the test set,
    white space and case aside, are left out and counted.

    Args:
        tokenizer: Folder or hub name; on the command line it is that of the model.
        tokenizer_revision: Commit, tag or branch of a hub tokenizer; likewise.
        encoding: How examples become tokens.
        batching: How examples become optimizer steps.
        target: What is learned: ``cot``, the reasoning and the line ``#### number``, or ``label``, that line alone.
        keep_calculator_marks: Learn the marks ``<<12*3=36>>`` of the published reasoning too; by default they are removed.
        source: The data set's name on the hub.
        subset: Its part there.
        revision: Its commit, tag or branch.
        train: A local JSONL, CSV or Parquet file with the published columns, instead of the hub's training split.
        test: Likewise for the test split.
        validation: Share of the training questions that is held out for validation, in (0, 1).
        split_seed: Which questions those are.
        max_rows: Use only the first rows of the training file; all by default.
        prompt_file: A YAML file with the keys ``system`` (may be left out) and ``user``, whose text holds {question}: another wording.

    Raises:
        ValueError: For a share or number of rows out of range, a prompt file without its place, a missing file, column or value, and an answer that does
            not end with ``#### number`` (by file, row and column).
    """

    license = "MIT"

    def __init__(
        self,
        tokenizer: str,
        tokenizer_revision: str | None = None,
        encoding: Encoding = Encoding(),
        batching: Batching = Batching(),
        target: Literal["cot", "label"] = "cot",
        keep_calculator_marks: bool = False,
        source: str = "openai/gsm8k",
        subset: str | None = "main",
        revision: str | None = None,
        train: str | None = None,
        test: str | None = None,
        validation: float = 0.05,
        split_seed: int = 0,
        max_rows: int | None = None,
        prompt_file: Path | None = None,
    ) -> None:
        super().__init__(tokenizer, tokenizer_revision, encoding, batching)
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"`max_rows` must be at least 1, or left out for all, got {max_rows}.")
        if not 0 < validation < 1:
            raise ValueError(f"`validation` must lie between 0 and 1 (a share of the training questions), got {validation}.")
        self.target = target
        self.keep_calculator_marks = keep_calculator_marks
        self.subset = subset
        self.revision = revision
        self.files: dict[str, str] = {"train": train or source, "test": test or source}
        self.source_name = self.files["train"]
        self.validation = validation
        self.split_seed = split_seed
        self.max_rows = max_rows
        self.prompt = PROMPTS[target] if prompt_file is None else read_prompt(prompt_file, ("question",))

    def metric(self) -> NumericMatch:
        return NumericMatch()

    def examples(self, split: Split) -> Sequence[Example]:
        published = "test" if split == "test" else "train"
        source = self.files[published]
        rows = load_rows(source, published, (QUESTION, ANSWER), self.revision, self.subset)
        if split == "test":
            return [self.example(row, row_name(source, index)) for index, row in enumerate(rows)]
        asked_in_test = set(map(folded, load_rows(self.files["test"], "test", (QUESTION,), self.revision, self.subset)[QUESTION]))
        rows = rows.select(range(min(len(rows), self.max_rows or len(rows))))
        is_validation = held_out(rows[QUESTION], self.validation, self.split_seed)
        own = [(index, row) for index, row in enumerate(rows) if is_validation[index] == (split == "val")]
        clean = [(index, row) for index, row in own if folded(row[QUESTION]) not in asked_in_test]
        self.counts[split]["question also in test"] += len(own) - len(clean)
        return [self.example(row, row_name(source, index)) for index, row in clean]

    def example(self, row: Mapping[str, Any], where: str) -> Example:
        """One row as a conversation; ``where`` names it in messages."""
        for column in (QUESTION, ANSWER):
            if not isinstance(row[column], str) or not row[column].strip():
                raise ValueError(f"{where}: `{column}` must be a text that is not empty, got {row[column]!r:.80}; fill it in or remove the row.")
        reasoning, mark, truth = row[ANSWER].rpartition("####")
        if not mark or number(truth) is None:
            raise ValueError(f"{where}: `{ANSWER}` must end with `#### number`, got {row[ANSWER][-80:]!r}; correct or remove the row.")
        if not self.keep_calculator_marks:
            reasoning = CALCULATOR_MARK.sub("", reasoning)
        response = f"{reasoning if self.target == 'cot' else ''}#### {truth.strip()}"
        prompt = fill_in(self.prompt["user"], {"question": row[QUESTION]})
        return Example.from_prompt(prompt, response, self.prompt.get("system"), {"where": where, "answer": truth.strip()})
