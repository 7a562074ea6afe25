import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassPrecision, MulticlassRecall

from lit_talr.data.example import Example
from lit_talr.metrics import ClassScores
from lit_talr.metrics.classes import class_of

CLASSES = {"E": "Exact", "S": "Substitute", "C": "Complement", "I": "Irrelevant"}
LONG = 100_000


def examples(letters: str) -> list[Example]:
    return [Example.from_prompt("?", "!", meta={"answer": letter, "where": "test.csv: row 3"}) for letter in letters]


def said(letters: str) -> list[str]:
    """Answers, of which "-" names none."""
    return ["" if letter == "-" else f'{{"answer": "{letter}"}}' for letter in letters]


def scores(metric: ClassScores) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"answer": "E"}', "E"),
        ('{"step_by_step_thinking": "It is a substitute, not exact.", "answer": "C"}', "C"),
        ('{\n  "answer" : "Substitute"\n}', "S"),
        ('{"answer": "irrelevant"}', "I"),
        ('{"answer": "E (Exact)"}', "E"),
        ('{"answer": E}', "E"),
        ("{'answer': 'S'}", "S"),
        ('{"final": {"answer": "S"}}', "S"),
        ('{"Answer": "S"}', "S"),
        ('{"answer": "E"} {"answer": "S"}', "S"),
        ('{"answer": "E"} {"answer": "', "E"),
        ('{"answer": E', "E"),
        (" E\n", "E"),
        ("exact.", "E"),
        ('"Complement"', "C"),
        ('{"answer": "E or S"}', None),
        ('{"answer": "not E"}', None),
        ('{"answer": "X"}', None),
        ('{"answer": ""}', None),
        ('{"answer": null}', None),
        ('{"answer": ["E", "S"]}', None),
        ('{"answer": {"answer": "S"}}', "S"),
        ("I think that it is exact", None),
        ("The answer is E", "E"),
        ("The answer is **Exact**.", "E"),
        ("Answer: E", "E"),
        ("{answer: E}", "E"),
        ('{"answer": ["E"]}', "E"),
        ('{"answer": [E, "E"', "E"),
        ("<answer>E</answer>", "E"),
        ('{"answer": "Exact match"}', "E"),
        ('{"step_by_step_thinking": "It is no substitute.", "answer": "E', "E"),
        ('{"step_by_step_thinking": "The answer: maybe S.", "answer": "E"}', "E"),
        ("The answer is not E", None),
        ("Answer: E or S", None),
        ("The answer is E, not S", None),
        ("The match is the answer", None),
        ("My answer: it depends, I think", None),
        ("E S", None),
        ("\uff25", None),
        ("\u0415", None),
        ("", None),
    ],
)
def test_reads_the_last_answer_or_the_whole_text(answer: str, expected: str | None) -> None:
    assert class_of(answer, CLASSES) == expected
    assert ClassScores(CLASSES).judge(answer, examples("E")[0]) == {"extracted": expected, "correct": expected == "E"}


PIECES = [
    *('"', "'", 'answer"', 'answer":', "answer':'", "answer:", "answer:[", 'answer:"E', "]", '"answer": "', '{"answer": ', "answer':\""),
    *(" ", "\n", "{", "}", "E", "E ", "\\", "\0", "\u0130", "\ud800"),
]


def test_time_is_proportional_to_the_length() -> None:
    for piece in PIECES:
        body = piece * (LONG // len(piece))
        for text in (body, f'{{"answer": "{body}"}}', f'{{"answer": {body}', f'{body}"answer": "E"'):
            start = time.process_time()
            class_of(text, CLASSES)
            assert time.process_time() - start < 1, f"{piece!r} repeated"


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
@pytest.mark.slow
def test_no_text_raises(text: str) -> None:
    for answer in (text, f'{{"answer": "{text}"}}', f'{{"answer": {text}}}'):
        assert class_of(answer, CLASSES) in {*CLASSES, None}


def test_an_answer_without_a_class_is_wrong_for_its_class() -> None:
    metric = ClassScores(CLASSES)
    metric.update(said("EE-SSE-I"), examples("EEESSSCI"))
    assert metric.confusion.tolist() == [[2, 0, 0, 0, 1], [1, 2, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0] * 5]
    f1 = {"E": 2 * 2 / (3 + 3), "S": 2 * 2 / (3 + 2), "C": 0, "I": 1}
    expected = {"score": sum(f1.values()) / 4, "macro_f1": sum(f1.values()) / 4, "accuracy": 5 / 8, "balanced_accuracy": (2 / 3 + 2 / 3 + 0 + 1) / 4}
    expected |= {"no_class": 2 / 8, "num_examples": 8, **{f"f1/{letter}": value for letter, value in f1.items()}}
    expected |= {"recall/E": 2 / 3, "recall/S": 2 / 3, "recall/C": 0, "recall/I": 1, "precision/E": 2 / 3, "precision/S": 1, "precision/C": 0, "precision/I": 1}
    assert scores(metric) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_is_what_torchmetrics_finds(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    true, read = (torch.randint(0, num, (200,), generator=draw) for num in (4, 5))  # the fifth: no class
    metric = ClassScores(CLASSES)
    metric.update(said("".join("ESCI-"[index] for index in read)), examples("".join("ESCI"[index] for index in true)))
    found = scores(metric)
    assert found["accuracy"] == pytest.approx(MulticlassAccuracy(5, average="micro")(read, true).item())
    for name, reference in {"recall": MulticlassRecall, "precision": MulticlassPrecision, "f1": MulticlassF1Score}.items():
        expected = reference(5, average="none")(read, true)[:4]
        assert [found[f"{name}/{letter}"] for letter in CLASSES] == pytest.approx(expected.tolist())
        assert {"recall": found["balanced_accuracy"], "f1": found["macro_f1"]}.get(name, expected.mean()) == pytest.approx(expected.mean().item())


def test_is_what_scikit_learn_finds() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    true, read = "EEESSSCIEE", "EESSSESIII"
    metric = ClassScores(CLASSES)
    metric.update(said(read), examples(true))
    found = scores(metric)
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score([*true], [*read], average="macro", zero_division=0))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score([*true], [*read]))


def test_a_class_without_examples_is_no_part_of_a_mean_unless_it_is_named() -> None:
    metric = ClassScores(CLASSES)
    metric.update(said("EES"), examples("EES"))
    assert scores(metric)["macro_f1"] == scores(metric)["balanced_accuracy"] == 1
    metric.update(said("C"), examples("E"))
    assert scores(metric)["macro_f1"] == pytest.approx((4 / 5 + 1 + 0) / 3)
    assert scores(metric)["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_nothing_scored_is_nan() -> None:
    metric = ClassScores(CLASSES)
    metric.update([], [])
    assert metric.compute()["score"].isnan() and metric.compute()["num_examples"] == 0


def test_halves_merged_equal_the_whole_and_reset_forgets() -> None:
    whole, first, second = (ClassScores(CLASSES) for _ in range(3))
    whole.update(said("ES-I"), examples("EECI"))
    first.update(said("E"), examples("E"))
    second.update(said("S-I"), examples("ECI"))
    first.merge_state(second)
    assert scores(first) == scores(whole)
    whole.reset()
    whole.update(said("E"), examples("E"))
    assert scores(whole)["num_examples"] == scores(whole)["accuracy"] == 1


def test_the_figure_has_a_number_for_every_pair() -> None:
    metric = ClassScores(CLASSES)
    metric.update(said("EE-S"), examples("EEES"))
    (axes,) = metric.figure().axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [*CLASSES, "none"]
    assert [text.get_text() for text in axes.texts] == ["2", "0", "0", "0", "1", "0", "1", *["0"] * 18]


def test_refuses_an_unknown_truth_by_its_row() -> None:
    with pytest.raises(ValueError, match="test.csv: row 3: `answer` must be one of E, S, C, I, got 'X'"):
        ClassScores(CLASSES).update([""], examples("X"))


@pytest.mark.parametrize("classes", [{}, {"E": "Exact"}, {"E": "Exact", "e": "Equal"}, {"E": "Exact", "S": "e"}])
def test_refuses_classes(classes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="`classes` must hold at least two letters and their names, none twice, got"):
        ClassScores(classes)


def test_refuses_answers_without_examples() -> None:
    with pytest.raises(ValueError):
        ClassScores(CLASSES).update(["", ""], examples("E"))
