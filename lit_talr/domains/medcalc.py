"""MedCalc-Bench (Khandekar et al., arXiv:2406.12036, https://github.com/ncbi-nlp/MedCalc-Bench), CC-BY-SA 4.0: medical calculation from a patient note.

A row as published, every column a text (this one is invented):

    Calculator ID: 5                    Calculator Name: Mean Arterial Pressure (MAP)    Category: physical    Output Type: decimal
    Patient Note: A 51-year-old man ... His blood pressure was 120/90 mm Hg ...
    Question: What is the patient's mean arterial pressure in mm Hg?
    Ground Truth Answer: 100.0          Lower Limit: 95.0    Upper Limit: 105.0
    Ground Truth Explanation: The mean arterial pressure is 2/3 * diastolic + 1/3 * systolic ... = 100.0 mm Hg.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Split
from lit_talr.data.rows import load_rows, row_name
from lit_talr.domains.base import DomainDataModule, held_out
from lit_talr.domains.prompts import fill_in, read_prompt
from lit_talr.metrics.medcalc import MedCalcAccuracy, as_number, rule_of

NOTE, QUESTION, ANSWER, EXPLANATION = "Patient Note", "Question", "Ground Truth Answer", "Ground Truth Explanation"
ASKED = ("Calculator ID", NOTE, QUESTION, ANSWER)
SCORED = ("Category", "Lower Limit", "Upper Limit")

USER_PROMPT = "Patient note:\n{note}\n\nTask:\n{question}\n\nReply with nothing but the JSON object."
PROMPTS = {
    "cot": {
        "system": "You compute a medical score or quantity for the patient described in a note. Think step by step, then give the result. Reply with one "
        'JSON object of the form {"step_by_step_thinking": <your reasoning, as text>, "answer": <the short result, as text>}.',
        "user": USER_PROMPT,
    },
    "label": {
        "system": "You compute a medical score or quantity for the patient described in a note. Reply with one JSON object of the form "
        '{"answer": <the short result, as text>}, without any reasoning.',
        "user": USER_PROMPT,
    },
}
"""In our own words, of the official form: note, task, and a JSON answer. The paper's own prompt is not known."""


class MedCalc(DomainDataModule):
    """Medical calculation: read a patient note, apply a formula or a set of rules, and give a number, a date or a duration.

    Rows of the training set whose note also stands in the test set are left out and counted. Validation rows are split from the training set by
    the hash of the note's text.

    Args:
        tokenizer: Folder or hub name; on the command line it is that of the model.
        tokenizer_revision: Commit, tag or branch of a hub tokenizer; likewise.
        encoding: How examples become tokens.
        batching: How examples become optimizer steps.
        target: What is learned: ``cot``, the worked explanation and the answer, or ``label``, the answer alone.
        source: The data set's name on the hub.
        revision: Its commit, tag or branch.
        train: A local Parquet, CSV or JSONL file with the published columns, instead of the hub's training split.
        test: Likewise for the test split.
        validation: Share of the training notes that is held out for validation, in (0, 1).
        split_seed: Which notes those are.
        max_rows: Use only the first rows of the training file; all by default.
        prompt_file: A YAML file with the keys ``system`` (may be left out) and ``user``, whose text holds {note} and {question}: another wording.

    Raises:
        ValueError: For a share or number of rows out of range, a prompt file without its places, a missing file, column or value (by file, row and column).
    """

    license = "CC-BY-SA 4.0"

    def __init__(
        self,
        tokenizer: str,
        tokenizer_revision: str | None = None,
        encoding: Encoding = Encoding(),
        batching: Batching = Batching(),
        target: Literal["cot", "label"] = "cot",
        source: str = "ncbi/MedCalc-Bench-v1.0",
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
            raise ValueError(f"`validation` must lie between 0 and 1 (a share of the training notes), got {validation}.")
        self.target = target
        self.revision = revision
        self.train = train or source
        self.test = test or source
        self.source_name = self.train
        self.validation = validation
        self.split_seed = split_seed
        self.max_rows = max_rows
        self.prompt = PROMPTS[target] if prompt_file is None else read_prompt(prompt_file, ("note", "question"))

    def metric(self) -> MedCalcAccuracy:
        return MedCalcAccuracy()

    def examples(self, split: Split) -> Sequence[Example]:
        if split == "test":
            rows = load_rows(self.test, "test", [*ASKED, *SCORED], self.revision)
            examples = [self.example(row, row_name(self.test, index), answered=False) for index, row in enumerate(rows)]
            self.metric().update([""] * len(examples), examples)  # a row that cannot be scored is named now, not after everything has been generated
            return examples
        response_columns = (ANSWER, EXPLANATION) if self.target == "cot" else (ANSWER,)
        rows = load_rows(self.train, "train", dict.fromkeys((*ASKED, *response_columns)), self.revision)
        test_notes = set(map(str, load_rows(self.test, "test", ASKED, self.revision)[NOTE]))
        rows = rows.select(range(min(len(rows), self.max_rows or len(rows))))
        is_validation = held_out(rows[NOTE], self.validation, self.split_seed)
        wanted = [index for index, held in enumerate(is_validation) if held == (split == "val")]
        clean = [index for index in wanted if str(rows[index][NOTE]) not in test_notes]
        self.counts[split]["note also in test"] += len(wanted) - len(clean)
        return [self.example(rows[index], row_name(self.train, index)) for index in clean]

    def example(self, row: Mapping[str, Any], where: str, answered: bool = True) -> Example:
        """One row as a conversation; ``where`` names it in messages."""
        required = (*ASKED, EXPLANATION) if answered and self.target == "cot" else ASKED
        for column in required:
            if row[column] is None or not str(row[column]).strip():
                raise ValueError(
                    f"{where}: `{column}` is empty; fill it in or remove the row" + (" (or train on `target: label`)." if column == EXPLANATION else ".")
                )
        answer = str(row[ANSWER])
        response = {"answer": answer}
        if self.target == "cot" and answered:
            response = {"step_by_step_thinking": str(row[EXPLANATION]), **response}
        fill = {"note": str(row[NOTE]), "question": str(row[QUESTION])}
        meta = {
            "where": where,
            "calculator_id": calculator_id(row, where),
            "category": row.get("Category"),
            "answer": answer,
            "lower": row.get("Lower Limit"),
            "upper": row.get("Upper Limit"),
        }
        response_text = json.dumps(response, ensure_ascii=False)
        return Example.from_prompt(fill_in(self.prompt["user"], fill), response_text, self.prompt.get("system"), meta)


def calculator_id(row: Mapping[str, Any], where: str) -> int:
    """The number that decides how an answer is scored; an unknown one is refused now, not after everything has been generated."""
    number = as_number(row["Calculator ID"])
    if number is None or not number.is_integer():
        raise ValueError(f"{where}: `Calculator ID` must be a whole number, got {row['Calculator ID']!r:.80}.")
    try:
        rule_of(int(number))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return int(number)
