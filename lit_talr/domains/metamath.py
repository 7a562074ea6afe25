r"""MetaMathQA (Yu et al., arXiv:2309.12284, https://huggingface.co/datasets/meta-math/MetaMathQA), MIT: questions of GSM8K and MATH, reworded and turned round.

A row as published (this one is invented), one of 395,000:

    type:              GSM_Rephrased
    query:             If 4 of the eggs in 3 boxes of 12 are broken, how many are whole?
    original_question: A box holds 12 eggs. How many eggs do 3 boxes hold, if 4 eggs are broken?
    response:          The boxes hold 12 * 3 = 36 eggs, of which 36 - 4 = 32 are whole.
                       #### 32
                       The answer is: 32

The authors made it of the training sets of GSM8K and MATH alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lit_talr.data.example import Example, Split
from lit_talr.data.rows import load_rows
from lit_talr.domains.published import Published
from lit_talr.domains.rows import Row, folded, held_out, named_rows
from lit_talr.metrics.math_answer import final_text
from lit_talr.metrics.math_match import MathMatch
from lit_talr.metrics.numeric_match import after_answer_is
from lit_talr.utils.errors import check_in

TYPE, QUERY, ORIGINAL, RESPONSE = "type", "query", "original_question", "response"
TYPES = tuple(f"{source}_{way}" for source in ("GSM", "MATH") for way in ("AnsAug", "Rephrased", "SV", "FOBAR"))
PROMPTS = {
    "cot": {"user": "{question}\n\nThink step by step. End with a line of the form\nThe answer is: <the answer alone>"},
    "label": {"user": "{question}\n\nReply, without any reasoning, with one line of the form\nThe answer is: <the answer alone>"},
}
"""Our own words, in the form of the published responses."""


@dataclass(eq=False, repr=False)
class MetaMathQA(Published):
    """Mathematics in words: questions of GSM8K and MATH, reworded and turned round, with reasoning.

    There is one published split. Validation and test rows are held out of it by the hash of the original question, so all wordings of a question are in
    one split. Rows without a question or a final answer, which the published file has, are left out and counted, and so are those whose own response
    would not be scored as correct. The answer of a row is read from its response as ``MathMatch`` reads any response.

    Args:
        target: What is learned: ``cot``, the whole response, or ``label``, the line ``The answer is: ...`` alone.
        train: A local JSONL, JSON, CSV or Parquet file with the published columns, instead of the hub's only split.
        max_rows: Use only the first rows of the file, for all three splits; all by default.
        types: Which kinds of rows are used, such as ``GSM_Rephrased``; all by default.
        exclude: Files of GSM8K's or MATH's test rows (with a column ``question`` or ``problem``): rows whose original question is in one of them, ignoring
            white space and case, are left out and counted.
        test_share: Share of the original questions that is held out for the test, in (0, 1).
    """

    source: str = "meta-math/MetaMathQA"
    validation: float = 0.005
    types: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    test_share: float = 0.005
    license = "MIT"
    prompts_by_target = PROMPTS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.used_types = TYPES if self.types is None else tuple(self.types)
        if not self.used_types or not set(self.used_types) <= set(TYPES):
            raise ValueError(f"`types` must be some of {', '.join(TYPES)}, got {', '.join(self.used_types) or 'none'}.")
        check_in("test_share", self.test_share, "(0, 1)", "it is the share of the original questions that is held out for the test")
        if self.validation + self.test_share >= 1:
            raise ValueError(f"`validation` and `test_share` must leave questions for training, got {self.validation} and {self.test_share}.")

    def metric(self) -> MathMatch:
        return MathMatch()

    def examples(self, split: Split) -> Sequence[Example]:
        rows = self.load_training_rows((TYPE, QUERY, ORIGINAL, RESPONSE))
        questions = [folded(text) for text in rows[ORIGINAL]]
        excluded = {key for source in self.exclude for key in read_questions(source)}
        counts, examples, metric = self.counts[split], [], self.metric()
        indices = [index for index, assigned in enumerate(self.assign_splits(questions)) if assigned == split]
        for index, (row, where) in zip(indices, named_rows(self.source_name, rows, indices), strict=True):
            check_row(row, where)
            if row[TYPE] not in self.used_types:
                counts["of another type"] += 1
            elif questions[index] in excluded:
                counts["original question excluded"] += 1
            elif not row[QUERY].strip():
                counts["without a question"] += 1
            elif not after_answer_is(row[RESPONSE]):
                counts["without a final answer"] += 1
            elif not metric.judge(row[RESPONSE], example := self.example(row, where))["correct"]:
                counts["answer not found in its own response"] += 1
            else:
                examples.append(example)
        return examples

    def assign_splits(self, questions: Sequence[str]) -> Iterator[Split]:
        """Assigns each question to a split, by its hash alone."""
        is_test = held_out(questions, self.test_share, self.split_seed)
        is_held_out = held_out(questions, self.test_share + self.validation, self.split_seed)
        return ("test" if test else "val" if held else "train" for test, held in zip(is_test, is_held_out, strict=True))

    def example(self, row: Row, where: str) -> Example:
        """Makes a conversation of one row."""
        answer = final_text(row[RESPONSE])
        response = row[RESPONSE] if self.target == "cot" else f"The answer is: {answer}"
        meta = {"where": where, "answer": answer, "type": row[TYPE], "category": row[TYPE].partition("_")[0]}
        return self.conversation({"question": row[QUERY]}, response, meta)


def check_row(row: Row, where: str) -> None:
    for column in (QUERY, ORIGINAL, RESPONSE):
        if not isinstance(row[column], str):
            raise ValueError(f"{where}: `{column}` must be a text, got {row[column]!r:.80}; fill it in or remove the row.")
    if row[TYPE] not in TYPES:
        raise ValueError(f"{where}: `{TYPE}` must be one of {', '.join(TYPES)}, got {row[TYPE]!r:.80}; correct or remove the row.")


def read_questions(source: str) -> list[str]:
    """Reads the questions of a file of GSM8K or MATH, folded."""
    rows = load_rows(source, "test", ())
    for column in ("question", "problem"):
        if column in rows.column_names:
            return [folded(text) for text in rows[column]]
    raise ValueError(f"`exclude`: {source} has neither a column `question` nor `problem`; give a file of GSM8K's or MATH's test rows.")
