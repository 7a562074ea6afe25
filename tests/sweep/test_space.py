"""Spaces are read strictly."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lit_talr.sweep.space import rate_text, read_space
from tests.sweep.stub import fails, words

ROOT = Path(__file__).parents[2]
TALR = ["-c", "configs/loss/talr.yaml"]


def test_rates_are_written_as_people_write_them() -> None:
    assert [rate_text(rate) for rate in (3e-4, 0.01, 1.5e-5, 1e-6, 0.5, 10.0)] == ["3e-4", "1e-2", "1.5e-5", "1e-6", "5e-1", "1e1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": [1]}, "space.yaml: the space: there is no key `rate`; there are rates, seeds"),
        ({"rates": [0]}, "space.yaml: `rates` must be a list of different numbers above 0, got [0]."),
        ({"rates": ["much"]}, "`rates` must be a list of different numbers above 0, got ['much']."),
        ({"rates": 1e-3}, "`rates` must be a list of different numbers above 0, got 0.001."),
        ({"rates": [1e-3, "1e-3"]}, "`rates` must be a list of different numbers above 0, got [0.001, '1e-3']."),
        ({"rates": []}, "`rates` must be a list of different numbers above 0, got []."),
        ({"rates": None}, "`remedies.standard` has no rates; give `rates`"),
        ({"seeds": [-1]}, "`seeds` must be a list of different whole numbers from 0, got [-1]."),
        ({"seed_words": ["data.seed"]}, "`seed_words` must be a list of different options, such as --data.seed, got ['data.seed']."),
        ({"remedies": None}, "`remedies` must be a mapping with at least one key, got None."),
        ({"remedies": {"base": []}}, "`base` is reserved for the sweep"),
        ({"remedies": {"a/b": []}}, "`a/b` becomes part of a folder's name"),
        ({"remedies": {"a": {"word": []}}}, "`remedies.a`: there is no key `word`; there are words, rates, variants."),
        ({"remedies": {"a": {"rates": [1]}}}, "`remedies.a` must be a list of words"),
        ({"remedies": {"a": "-c x"}}, "`remedies.a` must be a list of words"),
        ({"remedies": {"a": ["--run", "x"]}}, "`remedies.a`: `--run` is set by the sweep, for each trial"),
        ({"remedies": {"a": [*TALR, "--modle.x", 1]}}, "lit-talr: a: unrecognized arguments: --modle.x 1"),
        ({"remedies": {"a": ["x", *TALR]}, "variants": {"v": []}}, "lit-talr: v-a: unrecognized arguments: x"),
        (
            {"variants": {"a": ["--data.day", date(2026, 1, 2)]}},
            "`variants.a` must be a list of words",
        ),
        ({"remedies": {"a": ["-c", "nope.yaml"]}}, "nope.yaml: no such configuration file"),
        (
            {"variants": {"a": [], "a-talr": ["--data.batching.seed", 1]}, "remedies": {"talr-b": TALR, "b": [*TALR, "-c", "configs/adapter/lora.yaml"]}},
            "two points of the name `a-talr-b-1e-3-s0`",
        ),
        (
            {"remedies": {"a": TALR, "b": {"words": TALR, "rates": [1, 0.01]}}},
            "space.yaml: `remedies`: `a` and `b` have the same words, and both the rate 1e-2: their runs would be the same; correct the words of one",
        ),
        ({"remedies": {"a": {"words": TALR, "variants": ["b"]}}}, "`remedies.a`: `variants`: there is no variant `b`; the space has none."),
        (
            {"remedies": {"a": {"words": TALR, "variants": ["b"]}}, "variants": {"v": [], "w": ["--data.seed", 1]}},
            "`remedies.a`: `variants`: there is no variant `b`; there are v, w.",
        ),
        ({"remedies": {"a": {"words": TALR, "variants": "v"}}, "variants": {"v": []}}, "`remedies.a`: `variants` must be a list of different variants"),
        (
            {"remedies": {"a": {"words": TALR, "variants": ["v"]}}, "variants": {"v": [], "w": ["--data.seed", 1]}},
            "space.yaml: `variants`: no remedy is tried in `w`; name it in the `variants` of one, or leave it out.",
        ),
        (
            {"remedies": {"a": {"words": TALR, "variants": ["v"]}, "b": TALR}, "variants": {"v": [], "w": ["--data.seed", 1]}},
            "`remedies`: `a` and `b` have the same words, and both the rate 1e-3: their runs would be the same",
        ),
        ({"variants": {"a": ["--data.seed", 1], "b": ["--data.seed", "1"]}}, "`variants`: `a` and `b` have the same words: their runs would be the same"),
        ({"alphas": [2]}, "`alphas` must be a list of different numbers in [0, 1], got [2]."),
        ({"alphas": [0.5], "alphas_of": ["flow"]}, "`alphas_of`: there is no remedy `flow`; there are standard, talr."),
        ({"alphas_of": ["talr"]}, "`alphas` is missing"),
        ({"methods": ["lines"]}, "`methods` says how to merge, but `alphas` is missing"),
        ({"alphas": [0.5], "methods": ["ties"]}, "`methods`: there is no method `ties`; there are linear, lines."),
        ({"keep": "no"}, "`keep` must be true or false, got 'no'."),
        ({"paper": {"flow/1e-3": {"domain": 1, "general": 1}}}, "`paper`: there is no point `flow/1e-3` in the space; there are base, standard/1e-2"),
        ({"paper": {"talr/1e-3": {"domain": 1}}}, "`paper.talr/1e-3` must have the numbers `domain` and `general`, each in [0, 1], got"),
        ({"paper": {"talr/1e-3": {"domain": 50, "general": 0.5}}}, "`paper.talr/1e-3` must have the numbers `domain` and `general`, each in [0, 1], got"),
        ({"seed_words": ["--data.sed"]}, "lit-talr: standard: `data`: Option 'sed' is not accepted"),
        ({"remedies": {"a": ["--model.optimizer.lr=1"]}}, "`remedies.a`: `--model.optimizer.lr` is set by the sweep, from `rates` of the space"),
    ],
)
def test_a_space_is_read_strictly(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str) -> None:
    assert message in fails(capsys, *words(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


def test_the_papers_tables_have_the_papers_numbers() -> None:
    """Averages as reported; the third model is derived from them."""
    paper = read_space(ROOT / "configs" / "sweep" / "medcalc_tables.yaml").paper
    averages = {"standard": (0.534, 0.692), "l2": (0.506, 0.697), "lora": (0.181, 0.490)}
    averages |= {"wise-ft": (0.198, 0.727), "flow": (0.469, 0.692), "talr": (0.501, 0.717)}
    for remedy, (domain, general) in averages.items():
        rows = [paper[f"{model}/{remedy}/1e-6"] for model in ("qwen2.5-3b", "qwen3-4b", "gemma3-4b")]
        assert sum(row["domain"] for row in rows) / 3 == pytest.approx(domain, abs=0.0011)
        assert sum(row["general"] for row in rows) / 3 == pytest.approx(general, abs=0.0011)
