"""MedCalc-Bench (Khandekar et al., arXiv:2406.12036, https://github.com/ncbi-nlp/MedCalc-Bench), CC-BY-SA 4.0: medical calculation from a patient note.

A row as published, every column a text (this one is invented):

    Calculator ID: 5                    Calculator Name: Mean Arterial Pressure (MAP)    Category: physical    Output Type: decimal
    Patient Note: A 51-year-old man ... His blood pressure was 120/90 mm Hg ...
    Question: What is the patient's mean arterial pressure in mm Hg?
    Ground Truth Answer: 100.0          Lower Limit: 95.0    Upper Limit: 105.0
    Ground Truth Explanation: The mean arterial pressure is 2/3 * diastolic + 1/3 * systolic ... = 100.0 mm Hg.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lit_talr.data.example import Example, Split
from lit_talr.domains.published import PublishedSplits
from lit_talr.domains.rows import Row, require_text
from lit_talr.metrics.medcalc import MedCalcAccuracy, as_number, rule_of

NOTE, QUESTION, ANSWER, EXPLANATION = "Patient Note", "Question", "Ground Truth Answer", "Ground Truth Explanation"
ASKED = ("Calculator ID", NOTE, QUESTION, ANSWER)
SCORED = ("Category", "Lower Limit", "Upper Limit")

TASK = "You compute a medical score or quantity for the patient described in a note."
REPLY = {
    "cot": "Think step by step, then give the result. Reply with one JSON object of the form "
    '{"step_by_step_thinking": <your reasoning, as text>, "answer": <the short result, as text>}.',
    "label": 'Reply with one JSON object of the form {"answer": <the short result, as text>}, without any reasoning.',
}
USER_PROMPT = "Patient note:\n{note}\n\nTask:\n{question}\n\nReply with nothing but the JSON object."
PROMPTS = {target: {"system": f"{TASK} {reply}", "user": USER_PROMPT} for target, reply in REPLY.items()}
"""Our own words, in the official form: note, task, and a JSON answer. The paper's prompt is not known."""


@dataclass(eq=False, repr=False)
class MedCalc(PublishedSplits):
    """Medical calculation: read a patient note, apply a formula or a set of rules, and give a number, a date or a duration.

    Training rows whose note is also in the test set are left out and counted. Validation rows are split from the training set by the hash of the note.

    Args:
        prompt_file: A YAML file with a prompt of your own: the text ``user``, which holds {note} and {question}, and optionally ``system``.
    """

    source: str = "ncbi/MedCalc-Bench-v1.0"
    license = "CC-BY-SA 4.0"
    prompts_by_target = PROMPTS

    def metric(self) -> MedCalcAccuracy:
        return MedCalcAccuracy()

    def examples(self, split: Split) -> Sequence[Example]:
        if split == "test":
            examples = [self.example(row, where, ASKED) for row, where in self.test_rows((*ASKED, *SCORED))]
            self.metric().update([""] * len(examples), examples)  # refuses a row that cannot be scored before anything is generated
            return examples
        columns = (*ASKED, EXPLANATION) if self.target == "cot" else ASKED
        return [self.example(row, where, columns) for row, where in self.training_rows(split, columns, NOTE, "note", test_columns=ASKED)]

    def example(self, row: Row, where: str, columns: Sequence[str]) -> Example:
        """Makes a conversation of one row; ``columns`` must not be empty."""
        values = {}
        for name in columns:
            way_out = "fill it in or remove the row" + (" (or train on `target: label`)" if name == EXPLANATION else "")
            values[name] = require_text(as_text(row[name]), name, where, way_out)
        answer = {"answer": values[ANSWER]}
        response = {"step_by_step_thinking": values[EXPLANATION], **answer} if EXPLANATION in values else answer
        meta = {"where": where, "calculator_id": calculator_id(row, where), "category": row.get("Category"), **answer}
        meta |= {"lower": row.get("Lower Limit"), "upper": row.get("Upper Limit")}
        return self.conversation({"note": values[NOTE], "question": values[QUESTION]}, json.dumps(response, ensure_ascii=False), meta)


def as_text(value: object) -> str | None:
    """Reads a column of numbers as the published column of texts."""
    return None if value is None else str(value)


def calculator_id(row: Row, where: str) -> int:
    """Reads the number that decides how a response is scored; refuses an unknown one before anything is generated."""
    number = as_number(row["Calculator ID"])
    if number is None or not number.is_integer():
        raise ValueError(f"{where}: `Calculator ID` must be a whole number, got {row['Calculator ID']!r:.80}.")
    try:
        rule_of(int(number))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return int(number)
