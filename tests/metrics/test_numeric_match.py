"""The expected numbers are written by hand."""

import time
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_talr.data.example import Example
from lit_talr.metrics import NumericMatch
from lit_talr.metrics.numeric_match import find_number, last_number, parse_number, parse_quantity


def question(answer: str = "7", **meta: str) -> Example:
    return Example.from_prompt("?", "!", meta={"answer": answer, **meta})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        ("7.", 7),
        ("7.0", 7),
        ("007", 7),
        ("It is 7...", 7),
        ("1,234,567.50", Fraction(2469135, 2)),
        (r"1,\!234 or 1{,}234", 1234),
        ("$5", 5),
        (r"-\$5.50", Fraction(-11, 2)),
        ("$-5", -5),
        ("US$18", 18),
        (".5", Fraction(1, 2)),
        ("50%", 50),
        (r"50\%", 50),
        (r"90^\circ", 90),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4", Fraction(-3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\dfrac{-3}{4}", Fraction(-3, 4)),
        ("5-3", 3),
        ("(-3)", -3),
        ("\u22123", -3),
        ("\u20133", -3),
        (r"\frac34", Fraction(3, 4)),
        (r"\frac 3 4", Fraction(3, 4)),
        (r"\dfrac3{4}", Fraction(3, 4)),
        (r"\frac{30}4", Fraction(15, 2)),
        (r"\(18\)", 18),
        (r"\text{18}", 18),
        ("x=-3", -3),
        ("- 3", 3),
        ("**18** eggs", 18),
        (r"5\text{ kg}", 5),
        ("\u7b54\u6848\u662f18\u3002", 18),
        ("2 1/2", Fraction(1, 2)),
        ("1" * 50, int("1" * 50)),
    ],
)
def test_a_number_is_read_exactly(text: str, expected: Fraction | int) -> None:
    assert last_number(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "none", "inf", "-Infinity", "nan", "#### ", r"\boxed{}", "The answer is", ".", "-", "$", "/"),
        *("10^400", "10^{400}", "10^-5", "1e999", "1E+5", "H2O", "x_1", r"2\sqrt{3}", r"\sqrt{3}", r"7\pi", r"\frac{1}{\sqrt{2}}", "1101_2"),
        *("5!", "5\u00b2", "5\u00b3", "5\u00bd", "5\u00d710\u00b3", "70 000", "70\u00a0000", "70\u202f000"),
        *("1/0", r"\frac{1}{0}", "1/2/3", "12/5/2020", "3,4", "1,2,3", "12,34", "1.2.3", "1.234,5", "1,,000"),
        *("\u0663", "1\u0663", "3 + 4 = \u0667", "\uff17", "1" * 51, "9" * 5000, "9" * 1_000_000, "0." + "9" * 5000, "1," * 50_000 + "1"),
    ],
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert last_number(text) is None
    assert not NumericMatch().judge(text, question())["correct"]


@pytest.mark.parametrize(
    ("text", "expected", "place"),
    [
        ("3 + 4 = 7\n#### 7", 7, "####"),
        ("#### 7\n#### 8\nThat is 9.", 8, "####"),
        ("#### $1,234.\n", 1234, "####"),
        ("####7", 7, "####"),
        ("#### 2. Add\nThat makes 18", 18, "last"),
        ("#### 18 eggs", 18, "#### and words"),
        ("#### $18 a day for 2 hens\nThat was 5.", 18, "#### and words"),
        ("#### 2+3=5", 5, "last"),
        ("#### 3 or 7", 7, "last"),
        ("#### 18 eggs\nThe answer is 5.", 5, "answer is"),
        ("#### none\nThe answer is 4 of 5", None, "answer is"),
        (r"So $\boxed{7}$, not 8. The answer is 9.", 7, "boxed"),
        (r"\boxed{1} and \boxed{\frac{3}{4}} of 5", Fraction(3, 4), "boxed"),
        (r"\boxed{\sqrt{2}}, about 1.4", None, "boxed"),
        (r"\boxed{7", None, "last"),
        (r"\boxed{{7}}", 7, "boxed"),
        (r"\boxed{ {7} }", 7, "boxed"),
        ("The answer is 3. No, the Answer is: **18** for days.\n5", 18, "answer is"),
        ("The answer is:\n18", 18, "answer is"),
        ("**The answer is:**\n\n\\[\n18\n\\]\nfor 2 days", 18, "answer is"),
        ("The answer is\n18 of 20", 20, "last"),
        ("The answer is 18. We check: 9 * 2 = 18, and 3 more.", 18, "answer is"),
        ("From 3 and 4 follows 7 at last", 7, "last"),
    ],
)
def test_which_number_counts(text: str, expected: Fraction | int | None, place: str) -> None:
    assert find_number(text) == (expected, place)


@pytest.mark.parametrize(
    "said",
    [
        *("5 eggs", "about 5 dollars each", "5.", "$5", "**5** eggs!", "(5)", "A) 5", "yes, 5", "5, as we said", "5 - 0 = 5", "2 * 2 + 1 = 5 eggs", "x = 5"),
        *("5kg", "5 km/h", "$5/day", "a 5-hour walk", "5 m\u00b2", "5 cm^2", "5%", "5~cm", r"5\,cm", r"5^\circ", r"\$5", r"\left(5\right)"),
        *(r"5\text{ cm}", r"5\text{cm}^2", r"5\mbox{ cm}", r"5\ \mathrm{kg}", r"\text{5}", r"\textbf{5}", r"\approx 5", r"$2+3=\$5$", r"\text{(B) }5"),
    ],
)
def test_a_box_and_a_sentence_say_one_number_with_words_and_units(said: str) -> None:
    assert find_number(rf"\boxed{{{said}}}") == find_number(rf"\boxed {{{said}}}") == (5, "boxed")
    assert find_number(f"So 9, and the answer is {said}") == find_number(f"The answer is:\n{said}\n9") == (5, "answer is")


@pytest.mark.parametrize(
    "said",
    [
        *("5 or 7", "5 and 7", "5 to 7", "[5, 7]", "(5, x)", "(x, 5)", "5, y", "70 000", "5 for 2 days", "between 5 and 7", "x = 5, y = 6", "x = 5 or x = 6"),
        *(
            "5 * 2",
            "5*x",
            "5 + x",
            "5 - x",
            "x - 5",
            "5/x",
            "5 \u00d7 y",
            "5\u00b7x",
            "5 \u00f7 x",
            "5 * 10^400",
            "5\u00d710\u00b3",
            "5!",
            "5\u00b2",
            "5\u00bd",
        ),
        *("5x", "5i", "5xy", "70k", "5\u03c0", "\u221a5", "x < 5", "x >= 5", "x <= 5", "x \u2264 5", "5 = x", "2x = 5", "y = 5x + 1", "5, since 3 + 4 = 7"),
        *(r"5+\sqrt{2}", r"5\sqrt{2}", r"x \le 5", r"5 \pm x", r"5\cdot x", r"\cos 5", r"5\text{ or }7", r"[5, \infty)", r"10^\text{5}", r"\frac{5}{x}"),
        *(r"\begin{pmatrix} 5 \\ 7 \end{pmatrix}", r"5_{10}", r"5^{x}", r"5\%x", "5 of 7%"),
    ],
)
def test_a_box_and_a_sentence_that_say_more_have_no_number(said: str) -> None:
    assert find_number(rf"\boxed{{{said}}}") == (None, "boxed")
    assert find_number(f"The answer is {said}") == find_number(f"The answer is: ${said}$.") == (None, "answer is")


@pytest.mark.parametrize(
    ("text", "expected"),
    [(r"18\text{ cm}", 18), ("$18$ cm^2", 18), ("12 and 13", None), (r"\text{June 20}", None), ("18 = x", None), ("18x", None), ("", None)],
)
def test_a_quantity_is_a_number_and_words(text: str, expected: int | None) -> None:
    assert parse_quantity(text) == expected


@pytest.mark.parametrize(("text", "expected"), [(" $7$ ", 7), ("`7`", 7), ("**7.**", 7), ("7 eggs", None), ("= 7", None), ("", None)])
def test_a_text_is_a_number_only_as_a_whole(text: str, expected: int | None) -> None:
    assert parse_number(text) == expected


def test_strict_asks_for_the_line_of_the_benchmark() -> None:
    metric = NumericMatch()
    metric.update(["#### 7", "It is 7.", "#### 8", ""], [question()] * 4)
    assert {name: value.item() for name, value in metric.compute().items()} == {"score": 0.5, "strict": 0.25}
    assert metric.judge("That is 14/2", question()) == {"extracted": "7", "found": "last", "correct": True, "strict": False}
    assert metric.judge("?", question()) == {"extracted": None, "found": "last", "correct": False, "strict": False}


def test_refuses_a_truth_that_is_no_number() -> None:
    with pytest.raises(ValueError, match="test.jsonl: row 3: `answer` must be a number, got 'seven'; correct the row"):
        NumericMatch().update(["7"], [question("seven", where="test.jsonl: row 3")])


METRIC = NumericMatch()
LONG = 100_000
PIECES = [
    *("1", "1.", "1,", ",", ".", "-", "1-", "$", "-$", "$1", "/", "1/", "1 / ", " ", "%", "e", "1e", "^", "_", "{", "}", "\\", "\n", "\0", "inf"),
    *("#", "####", "#### 1\n", "answer is", "answer is 1 ", "{,}", "\u0663", "\u2212"),
    *(r"\boxed{", r"\boxed{1}", r"\frac{1", r"\frac{1}{", r"\frac{1}{2}", r"\sqrt{", r"\!"),
    *("=", "*", " * ", "**", "answer is: ", "answer is:\n", "answer is:**", ". A", ".)", "m^2", "cm", "\n#### 1 egg", "70 000", ", x", "or", "x = 1, "),
    *(r"\text{", r"\text{1}", r"\boxed {", r"\frac1", r"\frac{{1}", r"\frac{{", r"\sqrt1", r"\(", r"\[", "{{1}}"),
]
TEXTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from([*PIECES, "9" * 60, "0", "10^400", "1e999"]), max_size=40).map("".join))


@pytest.mark.parametrize("piece", PIECES)
def test_time_is_proportional_to_the_length(piece: str) -> None:
    body = piece * (LONG // len(piece))
    for text in (body, f"#### {body}", rf"\boxed{{{body}}}", f"the answer is {body}"):
        start = time.process_time()
        last_number(text)
        assert time.process_time() - start < 1


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_no_text_raises(text: str) -> None:
    assert_quick(text)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(TEXTS)
def test_none_of_very_many_texts_raises(text: str) -> None:
    assert_quick(text)


def assert_quick(text: str) -> None:
    start = time.process_time()
    assert METRIC.judge(text, question())["correct"] in (True, False)
    assert time.process_time() - start < 1
