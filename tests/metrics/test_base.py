import pytest
import torch

from lit_talr.data.example import Example
from lit_talr.metrics.base import CategoryAccuracy, CorrectShare


class Marked(CorrectShare):
    """Responses hold their marks."""

    def judge(self, response: str, example: Example) -> dict[str, object]:
        return {"correct": "right" in response, "brief": "brief" in response, "extracted": response}


class ByCategory(CategoryAccuracy):
    other_names = {"long name": "b"}

    def judge(self, response: str, example: Example) -> dict[str, object]:
        return {"correct": response == "right"}


def examples(*categories: str) -> list[Example]:
    return [Example.from_prompt("?", "!", meta={"category": category, "where": "rows.csv: row 7"}) for category in categories]


def test_the_share_of_correct_responses_and_of_other_marks() -> None:
    metric = Marked(marks=("correct", "brief"))
    metric.update(["right", "brief", "right and brief"], examples(*"aaa"))
    metric.update(["wrong"], examples("a"))
    assert {name: value.item() for name, value in metric.compute().items()} == {"score": 0.5, "brief": 0.5}
    assert metric.compute()["score"].dtype == torch.float32 and metric.total.dtype == torch.int64
    metric = Marked()
    metric.update(["right"], examples("a"))
    assert metric.compute() == {"score": 1}


def test_shares_overall_and_by_category() -> None:
    metric = ByCategory(("a", "b", "c"))
    metric.update(["right", "wrong"], examples("a", "a"))
    assert metric.compute().keys() == {"score", "accuracy", "accuracy_se", "num_examples", "accuracy/a"}
    metric.update(["right", "right"], examples("b", "long name"))
    scores = {name: value.item() for name, value in metric.compute().items()}
    expected = {"score": 0.75, "accuracy": 0.75, "accuracy_se": (0.75 * 0.25 / 4) ** 0.5, "num_examples": 4, "accuracy/a": 0.5, "accuracy/b": 1}
    assert scores == pytest.approx(expected)


def test_nothing_scored_is_nan_and_reset_forgets() -> None:
    for metric in (Marked(), ByCategory("ab")):
        metric.update([], [])
        assert metric.compute()["score"].isnan()
        metric.update(["wrong", "wrong"], examples("a", "b"))
        metric.reset()
        metric.update(["right"], examples("a"))
        assert metric.compute()["score"] == 1
    assert metric.compute()["num_examples"] == 1 and "accuracy/b" not in metric.compute()


def test_halves_merged_equal_the_whole() -> None:
    responses, rows = ["right", "wrong", "right", "right", "wrong"], examples(*"aabba")
    whole, first, second = (ByCategory("ab") for _ in range(3))
    whole.update(responses, rows)
    first.update(responses[:2], rows[:2])
    second.update(responses[2:], rows[2:])
    first.merge_state(second)
    assert whole.compute() == first.compute()
    for state in ("correct", "total"):
        assert torch.equal(getattr(whole, state), getattr(first, state)) and whole._reductions[state].__name__ == "dim_zero_sum"


@pytest.mark.parametrize("categories", [(), ("a", "a")])
def test_refuses_categories(categories: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="`categories` must hold at least one name and none twice, got"):
        ByCategory(categories)


def test_refuses_an_unknown_category_by_its_row() -> None:
    with pytest.raises(ValueError, match="rows.csv: row 7: `category` must be one of a, b, long name, got 'grade'"):
        ByCategory("ab").update([""], examples("grade"))


def test_refuses_responses_without_examples() -> None:
    for metric in (Marked(), ByCategory("ab")):
        with pytest.raises(ValueError):
            metric.update(["", ""], examples("a"))
