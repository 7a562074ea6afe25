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

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Split
from lit_talr.data.rows import load_rows, row_name
from lit_talr.domains.base import DomainDataModule, folded, held_out
from lit_talr.domains.prompts import fill_in, read_prompt
from lit_talr.metrics.math_match import MathMatch, final_text
from lit_talr.metrics.numeric_match import after_answer_is

TYPE, QUERY, ORIGINAL, RESPONSE = "type", "query", "original_question", "response"
TYPES = tuple(f"{source}_{way}" for source in ("GSM", "MATH") for way in ("AnsAug", "Rephrased", "SV", "FOBAR"))
PROMPTS = {
    "cot": {"user": "{question}\n\nThink step by step. End with a line of the form\nThe answer is: <the answer alone>"},
    "label": {"user": "{question}\n\nReply, without any reasoning, with one line of the form\nThe answer is: <the answer alone>"},
}
"""In our own words, of the form of the published responses."""


class MetaMathQA(DomainDataModule):
    """Mathematics in words: questions of GSM8K and MATH, reworded and turned round, with reasoning.

    There is one published split. Validation and test rows are held out of it by the hash of the original question, so all wordings of one question are on
    one side. Rows without a question or without a final answer, of which the published file has some, are left out and counted, and so are those whose own
    response would not be scored right. The answer of a row is read from its response as ``MathMatch`` reads any answer.

    Args:
        tokenizer: Folder or hub name; on the command line it is that of the model.
        tokenizer_revision: Commit, tag or branch of a hub tokenizer; likewise.
        encoding: How examples become tokens.
        batching: How examples become optimizer steps.
        target: What is learned: ``cot``, the whole response, or ``label``, the line ``The answer is: ...`` alone.
        types: Which kinds of rows to keep, such as ``GSM_Rephrased``; all by default.
        source: The data set's name on the hub.
        revision: Its commit, tag or branch.
        train: A local JSONL, JSON, CSV or Parquet file with the published columns, instead of the hub's only split.
        exclude: Files of GSM8K's or MATH's test rows (with a column ``question`` or ``problem``): rows whose original question stands there, white space
            and case aside, are left out and counted.
        validation: Share of the original questions that is held out for validation, in (0, 1).
        test_share: Likewise for the test; the two together leave some for training.
        split_seed: Which questions those are.
        max_rows: Use only the first rows of the file, for all three splits; all by default.
        prompt_file: A YAML file with the keys ``system`` (may be left out) and ``user``, whose text holds {question}: another wording.

    Raises:
        ValueError: For a share or number of rows out of range, an unknown type, a prompt file without its place, and a missing file, column or value (by
            file, row and column).
    """

    license = "MIT"

    def __init__(
        self,
        tokenizer: str,
        tokenizer_revision: str | None = None,
        encoding: Encoding = Encoding(),
        batching: Batching = Batching(),
        target: Literal["cot", "label"] = "cot",
        types: Sequence[str] | None = None,
        source: str = "meta-math/MetaMathQA",
        revision: str | None = None,
        train: str | None = None,
        exclude: Sequence[str] = (),
        validation: float = 0.005,
        test_share: float = 0.005,
        split_seed: int = 0,
        max_rows: int | None = None,
        prompt_file: Path | None = None,
    ) -> None:
        super().__init__(tokenizer, tokenizer_revision, encoding, batching)
        kept = TYPES if types is None else tuple(types)
        if not kept or not set(kept) <= set(TYPES):
            raise ValueError(f"`types` must be some of {', '.join(TYPES)}, got {', '.join(kept) or 'none'}.")
        for name, share in (("validation", validation), ("test_share", test_share)):
            if not 0 < share < 1:
                raise ValueError(f"`{name}` must lie between 0 and 1 (a share of the original questions), got {share}.")
        if validation + test_share >= 1:
            raise ValueError(f"`validation` and `test_share` must leave questions for training, got {validation} and {test_share}.")
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"`max_rows` must be at least 1, or left out for all, got {max_rows}.")
        self.target = target
        self.types = kept
        self.revision = revision
        self.source_name = train or source
        self.exclude = exclude
        self.validation = validation
        self.test_share = test_share
        self.split_seed = split_seed
        self.max_rows = max_rows
        self.prompt = PROMPTS[target] if prompt_file is None else read_prompt(prompt_file, ("question",))

    def metric(self) -> MathMatch:
        return MathMatch()

    def examples(self, split: Split) -> Sequence[Example]:
        rows = load_rows(self.source_name, "train", (TYPE, QUERY, ORIGINAL, RESPONSE), self.revision)
        rows = rows.select(range(min(len(rows), self.max_rows or len(rows))))
        questions = [folded(text) for text in rows[ORIGINAL]]
        sides = self.sides(questions)
        excluded = {key for source in self.exclude for key in asked_in(source)}
        counts, found, metric = self.counts[split], [], self.metric()
        for index in [index for index, side in enumerate(sides) if side == split]:
            row, where = rows[index], row_name(self.source_name, index)
            check(row, where)
            if row[TYPE] not in self.types:
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
                found.append(example)
        return found

    def sides(self, questions: Sequence[str]) -> Iterator[Split]:
        """The split to which each question belongs, by its hash alone."""
        is_test = held_out(questions, self.test_share, self.split_seed)
        is_held_out = held_out(questions, self.test_share + self.validation, self.split_seed)
        return ("test" if test else "val" if held else "train" for test, held in zip(is_test, is_held_out, strict=True))

    def example(self, row: Mapping[str, Any], where: str) -> Example:
        """One row as a conversation; ``where`` names it in messages."""
        answer = final_text(row[RESPONSE])
        response = row[RESPONSE] if self.target == "cot" else f"The answer is: {answer}"
        meta = {"where": where, "answer": answer, "type": row[TYPE], "category": row[TYPE].partition("_")[0]}
        return Example.from_prompt(fill_in(self.prompt["user"], {"question": row[QUERY]}), response, self.prompt.get("system"), meta)


def check(row: Mapping[str, Any], where: str) -> None:
    for column in (QUERY, ORIGINAL, RESPONSE):
        if not isinstance(row[column], str):
            raise ValueError(f"{where}: `{column}` must be a text, got {row[column]!r:.80}; fill it in or remove the row.")
    if row[TYPE] not in TYPES:
        raise ValueError(f"{where}: `{TYPE}` must be one of {', '.join(TYPES)}, got {row[TYPE]!r:.80}; correct or remove the row.")


def asked_in(source: str) -> list[str]:
    """The questions of a file of GSM8K or MATH."""
    rows = load_rows(source, "test", ())
    for column in ("question", "problem"):
        if column in rows.column_names:
            return [folded(text) for text in rows[column]]
    raise ValueError(f"`exclude`: {source} has neither a column `question` nor `problem`; give a file of GSM8K's or MATH's test rows.")
