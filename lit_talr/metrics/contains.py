"""Scores responses that hold the right answer somewhere."""

import re

from lit_talr.data.example import Example
from lit_talr.metrics.base import CorrectShare, right_answers


class Contains(CorrectShare):
    """The share of responses that contain ``example.meta["answer"]``, or one of several there, as whole words; case and the kind of white space do not count.

    A response that lists everything is right, so this suits short questions with rare answers.

    >>> from lit_talr.data.example import Example
    >>> example = Example.from_prompt("Who wrote it?", "Mary Shelley", meta={"answer": "Mary Shelley"})
    >>> [Contains().judge(response, example)["correct"] for response in ("It was mary  shelley.", "Mary Shelleys", "")]
    [True, False, False]
    """

    def judge(self, response: str, example: Example) -> dict[str, object]:
        text = spaced(response)
        found = [answer for answer in map(spaced, right_answers(example)) if answer and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text)]
        return {"extracted": found[0] if found else None, "correct": bool(found)}


def spaced(text: str) -> str:
    return " ".join(text.casefold().split())
