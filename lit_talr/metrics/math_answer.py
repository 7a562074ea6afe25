r"""Scores responses that give numbers or expressions, as those to MATH.

expected 3/4           "... so it is $\boxed{\frac{3}{4}}$."                right, a number
expected x^2 + 1       "The answer is: $x^2+1$"                             right, the same text
expected x^2 + 1       "The answer is: 1+x^2"                               wrong, though it is the same
"""

import re

from lit_talr.data.example import Example
from lit_talr.metrics.base import CorrectShare, right_answers
from lit_talr.metrics.numeric_match import after_answer_is, find_number, last_box, parse_number, parse_quantity, plain

LAYOUT = re.compile(r"\s|\\?\$|\\left(?![A-Za-z])|\\right(?![A-Za-z])|(?<=\\)[dt](?=frac)")


class MathAnswer(CorrectShare):
    """The share of right responses, as ``score``: numbers by the rule of ``NumericMatch``, anything else by its text.

    Both are read from the sentence after the last "answer is:", with its colon the requested form. Without one the whole response is read; a text is then
    what the last box holds, else what follows the last "answer is", else the last line. Two texts are the same where only white space, dollar signs and
    their kind, emphasis, a final full stop or LaTeX's layout (``\\left``, ``\\right``, ``\\dfrac`` for ``\\frac``, ``\\sqrt3`` for ``\\sqrt{3}``, ``\\text{}``)
    differ; nothing is worked out. The unit of a true answer may be left out (18 for ``18\\text{ cm}``). The right answer, ``example.meta["answer"]``, may be
    a whole response, from which its answer is read in the same way, or several, of which any counts.

    >>> from lit_talr.data.example import Example
    >>> example = Example.from_prompt("Expand it.", "The answer is: x^2 + 1", meta={"answer": "x^2 + 1"})
    >>> MathAnswer().judge("Hence the answer is $x^2+1$.", example)
    {'extracted': 'x^2+1', 'found': 'text', 'correct': True}
    """

    def judge(self, response: str, example: Example) -> dict[str, object]:
        found = [judge_math(response, final_text(answer)) for answer in right_answers(example)]
        return next((one for one in found if one["correct"]), found[0])


def judge_math(response: str, answer: str) -> dict[str, object]:
    """How a response was read, and whether it gives a right answer that stands alone."""
    expected = parse_number(answer)
    if expected is None:
        given = final_text(response)
        text, amount = same_layout(given), parse_quantity(answer)
        correct = text == same_layout(answer) != "" or (amount is not None and parse_number(given) == amount)
        return {"extracted": text or None, "found": "text", "correct": correct}
    value, source = find_number(requested_form(response))
    return {"extracted": None if value is None else str(value), "found": source, "correct": value == expected}


def requested_form(response: str) -> str:
    """Returns the part of a response that is read: the sentence after its last "answer is:" where there is one, else all of it."""
    sentence = after_answer_is(response, ":")
    return f"The answer is: {sentence}" if sentence else response


def final_text(response: str) -> str:
    """Returns the final answer of a response as it is written there."""
    response = requested_form(response)
    return last_box(response).strip() or after_answer_is(response) or response.strip().rpartition("\n")[2].rpartition("####")[2].strip()


def same_layout(text: str) -> str:
    """Removes layout that makes no difference between two texts."""
    return LAYOUT.sub("", plain(text)).lstrip("*`").rstrip("*`.")
