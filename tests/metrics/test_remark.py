from fractions import Fraction

import pytest

from lit_talr.metrics.remark import agrees


@pytest.mark.parametrize(
    "remark",
    [
        *("because 9 + 9 = 18", "9 + 9", "9 plus 9", "2 times 9 eggs", "(16 - 3 - 4) * 2", "36 divided by 2", "9 eggs/day x 2 days", "$9 + $9 = $18.00"),
        *(r"\frac{36}{2}", r"9 \times 2", "so 18", "which is 18", "or 18.0", "about 18", "for a total of 18 dollars", "9 and 9 are 18", "1,000 - 982"),
        *("9 hens lay 2 eggs each", "not 20", "after 2 days", "see step 3", "3 more than 15", "because there are 9 boys and 9 girls", "25% of 72"),
    ],
)
def test_agrees_where_it_says_the_same_or_nothing_of_the_number(remark: str) -> None:
    assert agrees(remark, Fraction(18))


@pytest.mark.parametrize(
    "remark",
    [
        *("because 9 + 9 = 17", "9 + 8", "3 plus 4", "so 17", "which is 17", "or 17", "about 17", "17", "17 dollars", "17 with tax", "making 20 in total"),
        *("17 or 18 or 19", "7, 9", "9 and 8 are 17", "x = 9", "x + 18", "9 + ", "= 10^400", r"\sqrt{324}", r"9, \infty", "= 9 of 2", "1 / 0"),
    ],
)
def test_disagrees_where_it_says_another_number_or_what_cannot_be_worked_out(remark: str) -> None:
    assert not agrees(remark, Fraction(18))


def test_the_number_is_as_exact_as_its_decimals() -> None:
    assert agrees("10 / 3", Fraction("3.33")) and not agrees("10 / 3", Fraction("3.34"))
    assert agrees("0.67", Fraction(2, 3)) and agrees("about 0.667", Fraction(2, 3)) and not agrees("0.66", Fraction(2, 3))
    assert not agrees("17.6", Fraction(18))


def test_a_percentage_is_also_its_hundredth() -> None:
    assert agrees("1/4", Fraction(25), percent=True) and agrees("25%", Fraction(1, 4))
    assert not agrees("1/4", Fraction(25))
