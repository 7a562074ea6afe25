"""The rule on counts made by hand."""

import pytest

from lit_talr.diagnose.facts import Facts, HardTokens
from lit_talr.diagnose.rule import LIMITS, STILL_HARD, advise, cut_after

NOISE = HardTokens(1000, 400, 300, 11.0, 13.0, 4.0, 2.0, 4.8, 2.5)
FACTS = Facts(2, 2e-3, NOISE, NOISE._replace(num_still=40), None, None, False)


def unseen(**changes: float) -> Facts:
    return FACTS._replace(unseen=NOISE._replace(**changes))


@pytest.mark.parametrize(
    ("facts", "remedy", "helps"),
    [
        (FACTS, "TALR", True),
        (unseen(temperature=0.6), "TALR with `least_temperature: 2`", True),
        (unseen(num_still=100), "Standard at a smaller rate", False),
        (unseen(num_still=252), "TALR with `least_temperature: 2`, next to Standard", None),  # the cut itself
        (unseen(still_base_nll=7.5), "Standard at a smaller rate", False),  # noise that the base finds plausible
        (unseen(num_still=100)._replace(drift=0.04), "Standard at this rate", False),
        (unseen(num_still=100)._replace(drift=0.7), "Standard at a smaller rate", False),
        (unseen(num_still=100)._replace(drift=0.1, visible=0.1), "L2", False),
        (FACTS._replace(drift=0.1, visible=0.1), "TALR", True),
        (unseen(num_still=400), "TALR", True),  # nothing was learned
    ],
)
def test_it_recommends(facts: Facts, remedy: str, helps: bool | None) -> None:
    advice = advise(facts)
    assert (advice.remedy, advice.helps) == (remedy, helps)
    assert LIMITS in advice.certainty and ("unsure" in advice.certainty) == (helps is None)
    assert all(text.endswith(".") for text in (advice.reason, advice.instead))


def test_the_cut_belongs_to_the_number_of_epochs() -> None:
    assert [cut_after(epochs) for epochs in (1, 2, 3, 20)] == [0.69, 0.63, 0.63, 0.63]
    facts = unseen(num_hard=4000, num_still=2640)  # .66
    assert [advise(facts._replace(epochs=epochs)).helps for epochs in (1, 2)] == [False, True]
    assert "the cut is of 2 epochs, the run has 5" in advise(facts._replace(epochs=5)).certainty
    assert "adapters" in advise(facts._replace(adapters=True)).certainty


@pytest.mark.parametrize("share", [number / 50 for number in range(51)])
def test_more_that_stays_hard_never_speaks_against_talr(share: float) -> None:
    order = [False, None, True]
    before, after = (order.index(advise(unseen(num_still=round(400 * part))).helps) for part in (share, min(1, share + 0.02)))
    assert before <= after
    wide = advise(unseen(num_hard=40_000, num_still=round(40_000 * share))).helps
    assert wide == (None if abs(share - STILL_HARD[2]) < 0.004 else share > STILL_HARD[2])


def test_what_was_learned_is_the_rest() -> None:
    assert NOISE.learned_base_nll == pytest.approx((400 * 11 - 300 * 13) / 100)
    assert NOISE._replace(num_still=400).learned_base_nll is None
    assert NOISE._replace(num_still=0, still_base_nll=None).learned_base_nll == 11.0
