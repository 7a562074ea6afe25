import numpy as np
import pytest

from lit_talr.metrics.wordings import check_wordings, suite_scores, with_spreads


def test_a_suite_under_several_wordings_has_their_mean_and_spread() -> None:
    scores = {"facts": 0.9, "sums/plain": 0.5, "sums/short": 0.8, "sums/polite": 0.2}
    assert suite_scores(scores) == {"facts": 0.9, "sums": 0.5}
    spread = {"sums": 0.5, "sums/spread": pytest.approx(0.6), "sums/sd": pytest.approx(np.std([0.5, 0.8, 0.2], ddof=1))}
    assert with_spreads(scores) == scores | spread
    assert with_spreads({"facts": 0.9}) == {"facts": 0.9}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sums/plain"], "at least two wordings of `sums`, got 'sums/plain' alone; call it `sums`"),
        (["sums", "sums/short"], "`sums` alone or with wordings"),
        (["sums/plain", "sums/spread"], "'sums/spread' is the name of a number"),
        (["sums/plain/a", "sums/plain/b"], "use one slash alone"),
        (["sums/", "sums/a"], "use one slash alone"),
    ],
)
def test_names_that_do_not_tell_suite_and_wording_apart_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_wordings(names)
