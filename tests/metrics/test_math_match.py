import pytest

from lit_talr.data.example import Example
from lit_talr.metrics import MathMatch


def question(answer: str, category: str = "MATH", **meta: str) -> Example:
    return Example.from_prompt("?", "!", meta={"answer": answer, "category": category, **meta})


@pytest.mark.parametrize(
    ("truth", "answer", "correct"),
    [
        ("7", "The answer is: 7", True),
        ("7", r"so \boxed{\$7.00}.", True),
        (r"\frac{3}{4}", "The answer is: 0.75", True),
        ("5,\\!000", "5000", True),
        ("7", "The answer is: 8", False),
        ("7", "", False),
        (r"x^2 + 1", "The answer is: $x^2+1$.", True),
        (r"x^2 + 1", "The answer is: 1+x^2", False),
        (r"2\sqrt{3}", r"Hence \boxed{ 2 \sqrt{3} }", True),
        (r"2\sqrt{3}", r"The answer is $\boxed{2\sqrt{3}}$.", True),
        (r"2\sqrt{3}", "The answer is: 2", False),
        (r"2\sqrt{3}", "", False),
        (r"\left(3, \frac{\pi}{2}\right)", r"The answer is: (3,\dfrac{\pi}{2})", True),
        (r"\text{even}", "It is\n\\text{even}", True),
        (r"\leftarrow", "arrow", False),
        ("$.$", "", False),
        (r"2\sqrt{3}", r"The answer is: \(2\sqrt{3}\).", True),
        (r"2\sqrt{3}", r"The answer is **$2\sqrt{3}$**.", True),
        (r"2\sqrt{3}", r"**The answer is:** `2\sqrt{3}`", True),
        (r"2\sqrt{3}", "The answer is:\n\\[\n2\\sqrt{3}\n\\]", True),
        (r"2\sqrt{3}", "The answer is:\n$$\n2\\sqrt{3}\n$$\nThat is all.", True),
        (r"2\sqrt{3}", r"The answer is: $2\sqrt{3}$. That is right.", True),
        (r"2\sqrt{3}", "#### 2\\sqrt3", True),
        (r"2\sqrt3", r"\boxed{2\sqrt{3}}", True),
        (r"\frac 59", r"\boxed{\frac{5}{9}}", True),
        (r"\frac{\sqrt5-1}2", r"\boxed{\frac{\sqrt{5}-1}{2}}", True),
        (r"\frac 1x", r"\boxed{\frac 1 x}", True),
        (r"\begin{pmatrix} x \\[2pt] y \end{pmatrix}", r"\boxed{\begin{pmatrix} x \\[2pt] y \end{pmatrix}}", True),
        (r"\text{Mara}", "The answer is: Mara", True),
        ("Mara", r"\boxed{\textbf{Mara}}", True),
        (r"18\text{ cm}", r"\boxed{18}", True),
        (r"18\text{ cm}", "The answer is: $18$ cm.", True),
        (r"18\text{ cm}", "The answer is: 18 m", False),
        (r"18\text{ cm}^2", "The answer is: 18.0", True),
        (r"18\text{ and }20", "The answer is: 18", False),
        ("5x", "The answer is: 5", False),
        (r"\$ 139", r"\boxed{139}", True),
        (r"\sqrt{3}", r"It is \boxed{\sqrt{3}}. The answer is correct.", True),
        ("7", r"It is \boxed{7}. The answer is correct.", True),
        ("5", r"It is \boxed{7}. The answer is: 5", True),
        ("x", r"It is \boxed{7}. The answer is: x", True),
        ("6", "#### 5\nThe answer is: 6", True),
        ("5", "#### 5\nThe answer is: 6", False),
        ("4", r"\boxed{3} The answer is: \boxed{4}", True),
        ("3", "The answer is: 3. The answer is 4.", True),
        ("3", "The answer is: 3 or 4", False),
    ],
)
def test_numbers_are_read_and_expressions_compared_as_text(truth: str, answer: str, correct: bool) -> None:
    assert MathMatch().judge(answer, question(truth))["correct"] is correct


def test_judge_says_what_was_read() -> None:
    assert MathMatch().judge("7.0", question("7")) == {"extracted": "7", "found": "last", "correct": True}
    assert MathMatch().judge("", question("x")) == {"extracted": None, "found": "text", "correct": False}


def test_each_source_has_its_share() -> None:
    metric = MathMatch()
    metric.update(["7", "8", "x"], [question("7", "GSM"), question("7", "GSM"), question("x")])
    scores = {name: score.item() for name, score in metric.compute().items()}
    assert scores["score"] == pytest.approx(2 / 3)
    assert scores["accuracy/GSM"] == 0.5 and scores["accuracy/MATH"] == 1
