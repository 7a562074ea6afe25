"""Scores responses that choose among lettered options."""

import re

from lit_talr.data.example import Example, place
from lit_talr.metrics.base import CorrectShare
from lit_talr.metrics.numeric_match import after_answer_is, last_box

ANSWER = re.compile(r"\banswer\W{0,3}:\s*+(.*)", re.IGNORECASE)


class Choice(CorrectShare):
    """The share of responses that choose the letter of ``example.meta["answer"]``.

    The letter is read from the last ``\\boxed{...}``, else after the last "answer is" or "answer:", else from the beginning of the response. It stands there
    first, alone or before a text: ``B``, ``(B)``, ``B.``, ``**B)** because ...``, ``\\text{B}``. In capitals only, and no article ("A dog"). A response that
    names two ("B or C") is wrong. The right answer may be a whole response, which is read in the same way.

    Args:
        letters: The letters that there are, in capitals, at least two, none twice.

    Raises:
        ValueError: For other letters; in use, for a right answer that is none of them, by the row's name where ``meta`` has it (``where``).

    >>> from lit_talr.data.example import Example
    >>> example = Example.from_prompt("(A) red (B) blue?", "B", meta={"answer": "B"})
    >>> [Choice().judge(response, example)["correct"] for response in ("B", "The answer is **(B)**, blue.", "A", "B or A", "Blue")]
    [True, True, False, False, False]
    """

    def __init__(self, letters: str = "ABCDEFGHIJ") -> None:
        super().__init__()
        if len(letters) < 2 or len(set(letters)) < len(letters) or not (letters.isalpha() and letters.isupper()):
            raise ValueError(f"`letters` must be at least two capital letters, none twice, got {letters!r}; write them as in ABCD.")
        self.letters = letters
        two = rf"\W*+(?:or|and|/|,)\W*+[{letters}](?!\w)"
        article = r"(?<=[AI])\s+[a-z]"
        self.first = re.compile(rf"(?:\\(?:text|mathrm|mathbf){{|[\W_])*+([{letters}])(?![\w'\u2019]|{two}|{article})")

    def judge(self, response: str, example: Example) -> dict[str, object]:
        expected = self.letter(str(example.meta["answer"]))
        if expected is None:
            raise ValueError(f"{place(example)}`answer` must be one of the letters {self.letters}, got {example.meta['answer']!r:.80}; correct the row.")
        chosen = self.letter(response)
        return {"extracted": chosen, "correct": chosen == expected}

    def letter(self, text: str) -> str | None:
        """The letter that a text chooses; None if it chooses none."""
        labelled = ANSWER.findall(text)
        match = self.first.match(last_box(text) or after_answer_is(text) or (labelled[-1] if labelled else text))
        return match[1] if match else None
