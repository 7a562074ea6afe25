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


SAID = [
    # a reason or remark that agrees
    ("The answer is 18 (9 + 9).", 18),
    ("The answer is 18, because 9 + 9 = 18", 18),
    ("The answer is 18 because 9 + 9 = 18.", 18),
    ("The answer is 18, since 16 - 3 - 4 = 9 and 9 * 2 = 18.", 18),
    ("The answer is 18, since 9 hens lay 2 eggs each.", 18),
    ("The answer is 18, as 9 times 2 is 18.", 18),
    ("The answer is 18 as there are 9 boys and 9 girls.", 18),
    ("The answer is 18, because 9 + 9", 18),
    ("The answer is **18**, because 9 + 9 = **18**.", 18),
    ("The answer is 18, which is 9 + 9.", 18),
    ("The answer is 18, which is 2 times 9.", 18),
    ("The answer is 18, which is 3 more than 15.", 18),
    ("The answer is 18, which is twice 9.", 18),
    ("The answer is 18, i.e. 9 * 2.", 18),
    ("The answer is 18, that is, 9 + 9.", 18),
    ("The answer is 18, so she makes 18 dollars.", 18),
    ("The answer is 18, so she makes $18.00 a day.", 18),
    ("The answer is 18, not 20.", 18),
    ("The answer is 18 rather than 20.", 18),
    ("The answer is 18: 9 + 9 = 18.", 18),
    ("The answer is 18 \u2014 she sells 9 eggs at $2 each.", 18),
    ("The answer is 18 - because 9 + 9 = 18.", 18),
    ("The answer is 18 or 18.0.", 18),
    ("The answer is 18, for 9 + 9 = 18.", 18),
    ("The answer is 18, obtained from 9 * 2.", 18),
    ("The answer is 18 eggs; 9 + 9 = 18.", 18),
    ("The answer is 18 [9 + 9].", 18),
    ("The answer is $9 for 2 days = $18.", 18),
    ("The answer is 9 + 9, which is 18.", 18),
    ("The answer is 9 * 2, or 18.", 18),
    ("The answer is 9 + 9 = 18, because 9 * 2 = 18.", 18),
    ("The answer is 20 - 2 = 18, so 18.", 18),
    ("The answer is 18 = 9 + 9.", 18),
    ("The answer is x = 18, because 9 + 9 = 18", 18),
    ("The answer is $18, because $9 + $9 = $18.", 18),
    (r"The answer is \(18\), because \(9 \times 2 = 18\).", 18),
    (r"The answer is $18$, since $\frac{36}{2} = 18$.", 18),
    (r"\boxed{18 (9 + 9)}", 18),
    (r"\boxed{18, \text{ because } 9 + 9 = 18}", 18),
    # parentheses
    ("The answer is 18 (eighteen).", 18),
    ("The answer is eighteen (18).", 18),
    ("The answer is 18 eggs (in total).", 18),
    ("The answer is = 18 (dollars)", 18),
    ("= 18 (dollars)", 18),
    ("The answer is 18 dollars (9 eggs * $2).", 18),
    ("The answer is 18 dollars ($2.00 x 9 eggs = $18.00).", 18),
    ("The answer is 18 (9 \u00d7 2).", 18),
    ("The answer is 18 (9x2).", 18),
    ("The answer is 18 ((16 - 3 - 4) * 2).", 18),
    (r"The answer is 18 (\frac{36}{2}).", 18),
    ("The answer is 18 (9 eggs at $2 each).", 18),
    ("The answer is 18 (since 9 + 9 = 18).", 18),
    ("The answer is 18 (not 20).", 18),
    ("The answer is 18 (after 2 days).", 18),
    ("The answer is **18** (9 + 9).", 18),
    ("The answer is $18$ ($9 + 9$).", 18),
    ("The answer is 0.75 (3/4).", Fraction(3, 4)),
    ("The answer is 3/4 (0.75).", Fraction(3, 4)),
    ("The answer is 0.75 (75%).", Fraction(3, 4)),
    ("The answer is 25% (1/4).", 25),
    ("The answer is 3.33 (10 / 3).", Fraction(333, 100)),
    (r"The answer is \frac{2}{3} (about 0.667).", Fraction(2, 3)),
    ("She makes $18 (9 * 2) every day.", 18),
    ("Total: 18 (9 + 9)", 18),
    ("So they have 18 in all (9 + 9).\n", 18),
    ("#### 18 (9 + 9)", 18),
    ("#### 18 eggs (9 + 9)", 18),
    ("#### $18 (9 * $2)", 18),
    ("#### 18, because 9 hens lay 2 eggs each", 18),
    ("#### 18 = 9 + 9", 18),
    # signs and currencies
    ("+7", 7),
    ("The answer is +7.", 7),
    ("The answer is +$7.", 7),
    ("The answer is $+7$.", 7),
    ("#### +7", 7),
    (r"\boxed{+7}", 7),
    ("The answer is -$7.", -7),
    ("The answer is \u20ac18.", 18),
    ("The answer is -\u20ac18.50.", Fraction(-37, 2)),
    ("#### \u00a318", 18),
    ("The answer is negative 5.", -5),
    ("The answer is minus 5.", -5),
    ("It is 3 +7", 7),
    # the end of a sentence
    ("The total is 18!", 18),
    ("The answer is 18!", 18),
    ("The answer is: 18!", 18),
    ("The answer is **18!**", 18),
    ("**The answer is:** 18!", 18),
    ("The answer is $18!", 18),
    ("The answer is $18.00!", 18),
    ("The answer is -18!", -18),
    ("The answer is 18 dollars!", 18),
    ("The answer is **18**!", 18),
    ("The answer is $18$!", 18),
    ("The answer is 18! (9 + 9)", 18),
    ("The answer is 18!!!", 18),
    ("The answer is 18! She has 3 left.", 18),
    ("So there are 18! \U0001f389", 18),
    ("She said it was (18!)", 18),
    ("That makes 3/4!\nGreat.", Fraction(3, 4)),
    ("#### 18!", 18),
    ("#### 18 dollars!", 18),
    ("#### **18!**", 18),
    ("The answer is 18 :)", 18),
    ("The answer is 18 :-)", 18),
    ("The answer is 18 \u2713", 18),
    ("The answer is 18 \u2705", 18),
    ("#### 18 :)", 18),
    ("The answer is 18, right?", 18),
    ("The answer is 18...", 18),
    ("The answer is <<9+9=18>>18.", 18),
    ("The answer is 9 + 9 = <<9+9=18>>18 eggs.", 18),
    ("6 * 5! = 720", 720),
    ("There are 5! = 120 orders.", 120),
]


@pytest.mark.parametrize(("text", "expected"), SAID)
def test_a_number_that_is_plainly_said_is_read(text: str, expected: Fraction | int) -> None:
    assert last_number(text) == expected


NOT_SAID = [
    # a reason or remark that disagrees
    "The answer is 5, since 3 + 4 = 7.",
    "The answer is 5, because 3 + 4 is 7.",
    "The answer is 5, because 3 plus 4 is 7.",
    "The answer is 5, because 3 and 4 are 7.",
    "The answer is 5, because 3 + 4.",
    "The answer is 5 as 3 + 4 makes 7.",
    "The answer is 5, since 3 + 2 = 5 and 5 + 2 = 7.",
    "The answer is 5, which is 3 + 4.",
    "The answer is 5, which rounds to 10.",
    "The answer is 5, so 7.",
    "The answer is 5, or about 7.",
    "The answer is 5: 3 + 4 = 7.",
    "The answer is 5 \u2014 or 7.",
    "The answer is 5 when x = 9.",
    "The answer is 5 if x = 9.",
    "The answer is 5 eggs; 3 + 4 = 7.",
    "The answer is 5, from 3 + 4.",
    "The answer is 5 [3 + 4].",
    "The answer is 5 = 3 + 4.",
    "The answer is 3 + 4, which is 5.",
    "The answer is 3 + x, which is 5.",
    "The answer is 5 or 5.5.",
    "The answer is 5 (3 + 4).",
    "The answer is 5 (7).",
    "The answer is 5 (or 7).",
    "The answer is 5 (maybe 7 or 8).",
    "The answer is 5 (= 7).",
    "The answer is 5 (about 7).",
    "The answer is 5 (7 with tax).",
    "The answer is 5 (5.5).",
    "The answer is 5 (x + 3).",
    "The answer is 5 (7, 9).",
    "The answer is 5(x + 1).",
    "The answer is 5(3 + 2).",
    r"The answer is 5 (\sqrt{25}).",
    "The answer is 0.5 (3/4).",
    "The answer is 0.5 (0.75).",
    r"\boxed{5 (3 + 4)}",
    r"\boxed{5, \text{ since } 3 + 4 = 7}",
    "#### 5 (3 + 4)",
    "#### 5 (7)",
    "#### 5, since 3 + 4 = 7",
    "#### 5, 7",
    # several, or an expression that is not worked out
    "The answer is 5 (if it rains) or 7 (if not).",
    "The answer is 5; or else 7.",
    "The answer is Ann: 5, Bob: 7.",
    "The answer is 5 or x.",
    "The answer is 5 or more.",
    "The answer is 2 hours and 30 minutes.",
    "The answer is 6:30 pm.",
    "The answer is 3:1.",
    "The answer is half of 36.",
    "The answer is twice 9.",
    "The answer is a quarter of 72.",
    "The answer is the square root of 25.",
    "The answer is 3 squared.",
    "The answer is 5 factorial.",
    "The answer is 9 plus nine.",
    "The answer is nine times 2.",
    "The answer is x -5.",
    "The answer is x +5.",
    "The answer is 5 +x.",
    "The answer is +x5.",
    "The answer is not 5.",
    "The answer is less than 5.",
    "The answer is at least 5.",
    "The answer is 5+.",
    "The answer is <<9+9=18>>.",
    # a factorial
    "5!",
    "**5!**",
    "= 5!",
    "x = 5!",
    "The answer is $5!$.",
    r"The answer is \(5!\).",
    "The answer is 5!.",
    "The answer is 5! ways.",
    "The answer is 3 * 5!",
    "The answer is 3 times 5!",
    r"The answer is 3 \cdot 5!",
    "The answer is x = 5!",
    "The answer is 5! + 3",
    "The answer is 5! (120)",
    "The answer is 5! = x.",
    "There are 5! ways.",
    "It is 3 + 5!",
    r"\boxed{5!}",
    r"\boxed{3 \times 5!}",
    "#### $5!$",
]


@pytest.mark.parametrize("text", NOT_SAID)
def test_a_number_that_is_not_plainly_said_is_none(text: str) -> None:
    assert last_number(text) is None


METRIC = NumericMatch()
LONG = 100_000
PIECES = [
    *("1", "1.", "1,", ",", ".", "-", "1-", "$", "-$", "$1", "/", "1/", "1 / ", " ", "%", "e", "1e", "^", "_", "{", "}", "\\", "\n", "\0", "inf"),
    *("#", "####", "#### 1\n", "answer is", "answer is 1 ", "{,}", "\u0663", "\u2212"),
    *(r"\boxed{", r"\boxed{1}", r"\frac{1", r"\frac{1}{", r"\frac{1}{2}", r"\sqrt{", r"\!"),
    *(" (", "1 (", "1 (1", "1 (1)", "1 (1 + 1) ", "1 (2 eggs for 1) ", "(1) ", "!", " 1!", "is 1! ", "<<", "<<1=1>>", "+", "+1", "\u20ac", "-$+"),
    *("1, because ", "1 or ", "so ", "1 so 1 ", "which is 1 ", "1 = 1 + 1, ", "because 1 + 1 = ", "negative 1", "half of ", " is ", "1: ", "\u2014", "x "),
    *("=", "*", " * ", "**", "answer is: ", "answer is:\n", "answer is:**", ". A", ".)", "m^2", "cm", "\n#### 1 egg", "70 000", ", x", "or", "x = 1, "),
    *(r"\text{", r"\text{1}", r"\boxed {", r"\frac1", r"\frac{{1}", r"\frac{{", r"\sqrt1", r"\(", r"\[", "{{1}}"),
]
TEXTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from([*PIECES, "9" * 60, "0", "10^400", "1e999"]), max_size=40).map("".join))


@pytest.mark.parametrize("piece", [piece if index % 10 == 0 else pytest.param(piece, marks=pytest.mark.slow) for index, piece in enumerate(PIECES)])
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
