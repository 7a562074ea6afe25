"""The rule of ``lit-talr diagnose``: from the counts of a short Standard run to a remedy. Every number that it compares with is here, with its source."""

from typing import NamedTuple

from lit_talr.diagnose.facts import Facts

THRESHOLD = 0.2
"""A token is hard below this probability, that of the paper's figure 3; the cuts below belong to it."""
STILL_HARD = {1: 0.69, 2: 0.63}
"""By number of epochs: TALR helps where more of the unseen, initially hard tokens are still hard. Lab: 22 conditions, one seed each, at a rate of 2e-3.
The cut of two epochs was right in 21, each left out when the cut was chosen; "never" was right in 14. That of one epoch was chosen on all."""
PLAUSIBLE_NLL = 9.0
"""Nats. TALR lowers weights by NLL, so it loses where what stays hard is as likely under the base as what can be learned. Lab, one short run of each kind of
noise, with a seed that no test of the rule uses: 11 to 12 for random words and phrases, 7 to 8 for true-looking statements. Other vocabularies will differ."""
LEAST_TEMPERATURE = 2.0
"""``least_temperature`` of TALR. Lab: it repaired most of TALR's loss on clean rows and cost nothing under noise."""
SMALL_DRIFT = 0.05
"""Nats per token. Lab, Standard: from .06 on the general score fell by .02 and more (docs/drift.md); a full run drifts further than two epochs of it."""
LEAST_VISIBLE = 0.5
"""The share of the update below which ``VisibleUpdate`` warns: at a smaller rate, even less of it would show."""
LEAST_TOKENS = 100
"""Hard unseen tokens, so that the interval reaches at most .1 to either side."""
LIMITS = "one model family, lab only"


class Advice(NamedTuple):
    """A recommendation in words."""

    remedy: str
    helps: bool | None  # whether TALR helps; None if undecided
    reason: str
    certainty: str
    instead: str  # the next best, and when


def advise(facts: Facts) -> Advice:
    """Recommend a remedy.

    1. The interval of the share of unseen hard tokens that are still hard holds the cut: undecided.
    2. The share is below the cut: no TALR.
    3. The base finds what stays hard plausible: no TALR.
    4. Else TALR; with a least temperature where its own would fall below that.
    """
    cut, unseen = cut_after(facts.epochs), facts.unseen
    share, (lower, upper) = unseen.share, unseen.interval
    counted = f"{share:.0%} of the unseen tokens that the base finds hard are still hard"
    if lower <= cut <= upper:
        return Advice(
            f"TALR with `least_temperature: {LEAST_TEMPERATURE:g}`, next to Standard",
            None,
            f"{counted}, too close to the cut of {cut:.0%} to decide; of the two forms of TALR, this one lost less where TALR lost.",
            certainty(facts, decided=False),
            "hold out more rows and diagnose again; or run both for two epochs, and compare their NLL on unseen rows, capped at 3 nats a token.",
        )
    if share < cut:
        return without_talr(facts, f"{counted}, below the cut of {cut:.0%}: the rest can be learned, and TALR would hold it back.")
    likely = unseen.still_base_nll or 0.0
    if likely < PLAUSIBLE_NLL:
        return without_talr(
            facts,
            f"{counted}, above the cut of {cut:.0%}, but the base finds them plausible ({likely:.1f} nats, less than {PLAUSIBLE_NLL:g}): TALR cannot tell them "
            "from what can be learned. If they are errors of the data, correct these.",
        )
    reason = f"{counted}, above the cut of {cut:.0%}, and the base finds them unlikely ({likely:.1f} nats): TALR holds back the right ones."
    if unseen.temperature < LEAST_TEMPERATURE:
        remedy = f"TALR with `least_temperature: {LEAST_TEMPERATURE:g}`"
        reason += f" Its temperature would fall to {unseen.temperature:.2g}, where what can be learned gets little weight too."
    else:
        remedy = "TALR"
        reason += f" Its temperature would stay at {unseen.temperature:.2g}, which leaves weight to what can be learned."
    return Advice(remedy, True, reason, certainty(facts, decided=True), "clean the rows, if their noise can be found.")


def without_talr(facts: Facts, reason: str) -> Advice:
    """Standard, or a remedy that keeps the model near its base."""
    sure = certainty(facts, decided=True)
    if facts.visible is not None and facts.visible < LEAST_VISIBLE:
        reason += f" Only {facts.visible:.0%} of the update shows in the arithmetic of the run, and at a smaller rate less would."
        return Advice("L2", False, reason, sure, "Standard at a smaller rate, scored and served in fp32.")
    if facts.drift is not None and facts.drift <= SMALL_DRIFT:
        reason += f" So far the drift is small ({facts.drift:.2g} nats a token), so there is little to repair."
        return Advice("Standard at this rate", False, reason, sure, "Standard at a smaller rate, if the full run drifts further.")
    reason += " The drift was not logged." if facts.drift is None else f" The drift of {facts.drift:.2g} nats a token is more than {SMALL_DRIFT:g} already."
    instead = "L2, where the rate must stay; Wise-FT (`lit-talr merge`), where the run is not to be repeated."
    return Advice("Standard at a smaller rate", False, reason, sure, instead)


def cut_after(epochs: int) -> float:
    """The cut after so many epochs; that of the most epochs where none belongs to the number."""
    return STILL_HARD.get(epochs, STILL_HARD[max(STILL_HARD)])


def certainty(facts: Facts, decided: bool) -> str:
    """How sure a recommendation is, and why not more."""
    doubts = [LIMITS]
    if facts.epochs not in STILL_HARD:
        doubts.append(f"the cut is of {max(STILL_HARD)} epochs, the run has {facts.epochs}")
    if facts.adapters:
        doubts.append("the cut is of full fine-tuning, the run trained adapters")
    return f"{'fairly sure' if decided else 'unsure'} ({'; '.join(doubts)})"
