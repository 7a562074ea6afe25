"""Invented rows in the columns of GSM8K and of MetaMathQA."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TYPES = ("GSM_AnsAug", "GSM_Rephrased", "MATH_AnsAug", "MATH_SV")


def gsm8k_row(number: int) -> dict[str, str]:
    """Eggs in boxes; ``number`` of them break."""
    whole = 1200 - number
    return {
        "question": f"A farm packs 100 boxes of 12 eggs, and {number} eggs break. How many are whole?",
        "answer": f"The boxes hold 100*12=<<100*12=1200>>1200 eggs.\nOf these 1200-{number}=<<1200-{number}={whole}>>{whole} are whole.\n#### {whole:,}",
    }


def metamath_row(number: int, wording: int = 0) -> dict[str, str]:
    """One of several wordings of one question; those of every third question are answered by an expression."""
    answer = f"{number}\\sqrt{{3}}" if number % 3 == 0 else str(number)
    return {
        "type": TYPES[wording],
        "query": f"Wording {wording}: what is {number} times the side?",
        "original_question": f"How long are {number} sides?",
        "response": f"They are {number} times as long, so \\boxed{{{answer}}}.\nThe answer is: {answer}",
    }


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """A JSONL file, gzipped where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


def write_gsm8k(folder: Path, num_train: int = 24, num_test: int = 5, **changed: Any) -> list[str]:
    """Files of rows, of which the third for training is changed; gives the options that name them."""
    train = [gsm8k_row(n) for n in range(num_train)]
    train[2] |= changed
    test = [gsm8k_row(1000 + n) for n in range(num_test)]
    return ["--data.train", write_rows(folder / "train.jsonl.gz", train), "--data.test", write_rows(folder / "test.jsonl", test)]


def write_metamath(folder: Path, num_questions: int = 24, **changed: Any) -> list[str]:
    """A file with four wordings of each question, of which the third row is changed; gives the option that names it."""
    rows = [metamath_row(number, wording) for number in range(num_questions) for wording in range(len(TYPES))]
    rows[2] |= changed
    return ["--data.train", write_rows(folder / "metamath.jsonl", rows)]
