"""GSM8K (Cobbe et al., arXiv:2110.14168, https://github.com/openai/grade-school-math), MIT: word problems of grade school.

A row as published (this one is invented); ``<<...>>`` are marks for a calculator:

    question: A box holds 12 eggs. How many eggs do 3 boxes hold, if 4 eggs are broken?
    answer:   The boxes hold 12*3=<<12*3=36>>36 eggs.
              Of these 36-4=<<36-4=32>>32 are whole.
              #### 32
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lit_talr.data.example import Example, Split
from lit_talr.domains.published import PublishedSplits
from lit_talr.domains.rows import Row, folded, require_text
from lit_talr.metrics.numeric_match import NumericMatch, parse_number

QUESTION, ANSWER = "question", "answer"
CALCULATOR_MARK = re.compile(r"<<[^<>]*+>>")
PROMPTS = {
    "cot": {"user": "{question}\n\nThink step by step. End with a line of the form\n#### <the answer, as a number alone>"},
    "label": {"user": "{question}\n\nReply, without any reasoning, with one line of the form\n#### <the answer, as a number alone>"},
}
"""Our own words, in the form of the published answers; the benchmark has no prompt."""


@dataclass(eq=False, repr=False)
class GSM8K(PublishedSplits):
    """Word problems of grade school: read one, reason, and give a number. A domain, or a suite of ``GeneralScore``.

    Validation rows are split from the training set by the hash of the question. Training and validation rows whose question is also in the test set,
    ignoring white space and case, are left out and counted.

    Args:
        target: What is learned: ``cot``, the reasoning and the line ``#### number``, or ``label``, that line alone.
        keep_calculator_marks: Learn the marks ``<<12*3=36>>`` of the published reasoning too; by default they are removed.
    """

    source: str = "openai/gsm8k"
    subset: str | None = "main"
    keep_calculator_marks: bool = False
    license = "MIT"
    prompts_by_target = PROMPTS

    def metric(self) -> NumericMatch:
        return NumericMatch()

    def examples(self, split: Split) -> Sequence[Example]:
        columns = (QUESTION, ANSWER)
        rows = self.test_rows(columns) if split == "test" else self.training_rows(split, columns, QUESTION, "question", folded)
        return [self.example(row, where) for row, where in rows]

    def example(self, row: Row, where: str) -> Example:
        """Makes a conversation of one row."""
        question, solution = (require_text(row[column], column, where) for column in (QUESTION, ANSWER))
        reasoning, mark, answer = solution.rpartition("####")
        if not mark or parse_number(answer) is None:
            raise ValueError(f"{where}: `{ANSWER}` must end with `#### number`, got {solution[-80:]!r}; correct or remove the row.")
        if not self.keep_calculator_marks:
            reasoning = CALCULATOR_MARK.sub("", reasoning)
        response = f"{reasoning if self.target == 'cot' else ''}#### {answer.strip()}"
        return self.conversation({"question": question}, response, {"where": where, "answer": answer.strip()})
