import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lit_talr.report.tables import collect
from tests.helpers.scores import read_values, write_values
from tests.report.synthetic import write_answers, write_config, write_run, write_sweep

POINT = {"variant": "cot", "rate": 1e-3, "base": "base"}
SUITES = ("add", "sort")
START = [1, 1, 1, 1, 1, 0, 1, 1]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A base, and two seeds of Standard and one of TALR; four items of each of two suites."""
    write_run(tmp_path / "base", [0, 0, 0, 1], START, suites=SUITES, variant="cot", remedy="base", base="base")
    for seed, (domain, general) in enumerate([([1, 1, 0, 1], [1, 0, 1, 0, 0, 0, 1, 1]), ([1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 1, 0])]):
        write_run(tmp_path / f"standard-{seed}", domain, general, START, {"step": 9, "val/nll": 0.5}, SUITES, remedy="standard", seed=seed, **POINT)
    write_run(tmp_path / "talr-0", [1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 1, 1], None, {"step": 9}, SUITES, remedy="talr", seed=0, **POINT)
    return tmp_path


def test_a_row_for_each_run_by_hand(small: Path) -> None:
    results = collect([small]).results.set_index("name")
    assert list(results.index) == ["base", "standard-0", "standard-1", "talr-0"]
    row = results.loc["standard-0"]
    # add: 1, 1, 0, 1; sort: 0, 0, 0, 1
    assert (row["domain"], row["general"], row["general/add"], row["general/sort"]) == (0.75, 0.5, 0.75, 0.25)
    assert row["drop"] == pytest.approx((1 + 0.75) / 2 - 0.5) and (row["steps"], row["val/nll"]) == (9, 0.5)
    assert results.loc["talr-0", "drop"] == pytest.approx(0.875 - 0.75)  # from the base's own run
    assert results.loc["talr-0", "drop_lower"] <= 0.125 <= results.loc["talr-0", "drop_upper"]
    assert results.loc["base", "drop"] == 0 and results.loc["base", ["drop_lower", "drop_upper"]].isna().all()  # 0 by definition
    assert results["trained"].tolist() == [False, True, True, True] and pd.isna(results.loc["base", "rate"])


def test_intervals_by_hand(small: Path) -> None:
    results = collect([small]).results.set_index("name")
    # 3 of 4 right, and two more of each kind
    half = 1.959964 * (5 / 8 * 3 / 8 / 8) ** 0.5
    assert results.loc["standard-0", ["domain_lower", "domain_upper"]].tolist() == pytest.approx([5 / 8 - half, 5 / 8 + half])
    # add: 3 of 4; sort: 1 of 4; one more of each kind in each
    half = 1.959964 * (2 * (4 / 6 * 2 / 6 / 6)) ** 0.5 / 2
    assert results.loc["standard-0", ["general_lower", "general_upper"]].tolist() == pytest.approx([0.5 - half, 0.5 + half])
    # add loses 1 item and sort 2; half an item more is lost and half an item gained in each, of 5 then
    means = np.array([1 / 5, 2 / 5])
    half = 1.959964 * sum((2 / 5, 3 / 5) - means**2) ** 0.5 / 5**0.5 / 2
    assert results.loc["standard-0", ["drop_lower", "drop_upper"]].tolist() == pytest.approx([0.3 - half, 0.3 + half])
    assert results.loc["standard-1", "domain_upper"] == 1  # all four right; no score is above 1


def test_means_over_seeds_by_hand(small: Path) -> None:
    means = collect([small]).means.set_index("point")
    row = means.loc["cot standard 1e-3"]
    assert row["seeds"] == 2 and row["domain"] == 0.875 and row["domain_se"] == pytest.approx(0.125)
    assert row["domain_seeds_lower"] == pytest.approx(0.875 - 12.706 * 0.125)
    # over items 1, 1, 1/2 and 1, and two more of each kind
    half = 1.959964 * ((3.25 + 2) / 8 - (5.5 / 8) ** 2) ** 0.5 / 8**0.5
    assert row["domain_lower"] == pytest.approx(5.5 / 8 - half) and row["domain_upper"] == pytest.approx(min(1, 5.5 / 8 + half))
    assert pd.isna(means.loc["cot talr 1e-3", "domain_se"]) and means.loc["cot talr 1e-3", "seeds"] == 1


def test_pairs_are_differences_of_means_with_paired_intervals(small: Path) -> None:
    pairs = collect([small]).pairs.set_index(["reference", "point"])
    row = pairs.loc[("cot standard 1e-3", "cot talr 1e-3")]
    assert row["domain"] == pytest.approx(0.5 - 0.875) and row["general"] == pytest.approx(0.75 - 0.5)
    # TALR fails the last two items; of Standard one seed fails the third: differences 0, 0, -0.5, -1, and one more of -1 and of 1
    half = 1.959964 * ((1.25 + 2) / 6 - (1.5 / 6) ** 2) ** 0.5 / 6**0.5
    assert (row["domain_lower"], row["domain_upper"]) == pytest.approx((-1.5 / 6 - half, -1.5 / 6 + half))
    back = pairs.loc[("cot talr 1e-3", "cot standard 1e-3")]
    assert (back["domain"], back["domain_lower"]) == pytest.approx((-row["domain"], -row["domain_upper"]))
    assert {reference for reference, _ in pairs.index} == {"cot base", "cot standard 1e-3", "cot talr 1e-3"}


def test_curves_are_of_the_suites_that_count(tmp_path: Path) -> None:
    """The domain's own suite stays out of the mean, and so out of the curve."""
    folder = write_run(tmp_path / "run", [1, 0], [1, 0, 0, 0, 0, 0, 1, 0, 0], suites=("add", "own", "sort"), fit={}, remedy="talr")
    write_values(folder, {"fit": {}, "test": {**read_values(folder, "test"), "general/mean": (2 / 3 + 0) / 2}})
    suites = ("add", "own", "sort")
    write_answers(folder, "general-test", [1, 0, 0, 0, 0, 0, 1, 0, 0], suites, left_out=["own"])
    write_answers(folder, "val-epoch-1", [1, 1, 0, 0])
    write_answers(folder, "general-epoch-0", [1, 1, 1, 1, 0, 0], suites, left_out=["own"])
    write_answers(folder, "general-epoch-1", [1, 0, 0, 0, 0, 0], suites, left_out=["own"])
    tables = collect([tmp_path])
    assert tables.notes.empty and tables.results["general_upper"].notna().all()
    curves = tables.curves
    assert curves["epoch"].tolist() == [0, 1] and curves["general"].tolist() == [0.75, 0.25]
    assert pd.isna(curves["domain"][0]) and curves["domain"][1] == 0.5
    write_run(tmp_path / "base", [1, 0, 0, 0], [1, 1, 1], remedy="base")
    assert collect([tmp_path]).curves.set_index("name").loc["run", "domain"].tolist() == [0.25, 0.5]


def test_a_score_that_is_no_share_of_right_answers_has_no_interval(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [1, 0, 1, 1], remedy="talr", fit={})
    write_values(folder, {"fit": {}, "test": {"test/score": 0.61}})
    tables = collect([tmp_path])
    assert tables.results["domain"].tolist() == [0.61] and tables.results["domain_lower"].isna().all()
    assert "its score 0.61 is not the share of right answers in test.jsonl" in tables.notes["sentence"][0]


def test_tokens_without_the_hardest_and_with_the_temperature_of_any_loss(tmp_path: Path) -> None:
    out = write_sweep(tmp_path, remedies=["talr"], rates=[1e-3], seeds=[0], variants=[None], epochs=2, items=12)
    tokens = collect([out]).tokens
    assert set(tokens["group"]) == {"all", "bin", "cohort"} and tokens["epoch"].max() == 2
    train = tokens[(tokens["set"] == "train") & (tokens["group"] == "all")]
    assert train["temperature"].tolist() == [1, 2 / 3]
    file = out / "talr-1e-3-s0" / "token_probability.parquet"
    pd.read_parquet(file).drop(columns="talr/temperature").to_parquet(file)
    assert collect([out]).tokens["temperature"].isna().all()
    file.write_bytes(file.read_bytes()[:100])
    broken = collect([out])
    assert broken.tokens.empty and broken.notes["sentence"].tolist() == ["its token_probability.parquet is not one that TokenProbability wrote"]


def test_what_is_left_out_is_noted_with_the_sweeps_own_words(small: Path) -> None:
    (small / "failed").mkdir()
    (small / "failed" / "trial.json").write_text("{}")
    (small / "unfinished").mkdir()
    (small / "unfinished" / "trial.json").write_text("{}")
    (small / "sweep.json").write_text(json.dumps({"failed": {"failed": "the loss is not finite."}}))
    answers = small / "talr-0" / "answers" / "test.jsonl"
    answers.write_text(answers.read_text()[:-20])
    notes = collect([small]).notes.set_index("name")["sentence"]
    assert notes["failed"] == "failed (the loss is not finite); left out"
    assert notes["unfinished"] == "has no metrics.json: it has not ended, or was not tested; left out"
    assert notes["talr-0"] == "test.jsonl is not a whole file of answers"


def test_two_runs_of_the_same_point_and_seed_are_refused(small: Path) -> None:
    write_run(small / "again", [1, 0, 1, 1], remedy="talr", seed=0, **POINT)
    with pytest.raises(ValueError, match="again and talr-0 are both cot talr 1e-3, seed 0; name one of them only"):
        collect([small])


def test_a_base_that_was_only_tested_is_of_the_variant_that_the_runs_share(tmp_path: Path) -> None:
    write_run(tmp_path / "before", [0, 1], [1, 1, 1])
    write_config(write_run(tmp_path / "run", [1, 1], [1, 0, 1], fit={}), {"class_path": "lit_talr.losses.TALR"}, target="cot")
    tables = collect([tmp_path])
    assert tables.results["point"].tolist() == ["cot base", "cot talr 3e-4"] and tables.results["drop"].tolist() == [0, pytest.approx(1 / 3)]
    assert "taken for the base model" in tables.notes["sentence"][0]


def test_runs_that_only_their_names_tell_apart_stand_under_these(tmp_path: Path) -> None:
    for name in ("flow", "flow-token"):
        write_config(write_run(tmp_path / name, [1, 0], fit={}), {"class_path": "lit_talr.losses.FLOW"})
    write_config(write_run(tmp_path / "other", [1, 0], fit={}), {"class_path": "lit_talr.losses.TALR"})
    tables = collect([tmp_path])
    assert tables.results["remedy"].tolist() == ["flow", "flow-token", "talr"]
    assert tables.notes["sentence"][1] == "is flow 3e-4 by its configuration, as another run is; it stands under its folder's name"


def test_no_tested_run_is_refused_with_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    with pytest.raises(ValueError, match="there is no tested run: run has no metrics.json"):
        collect([tmp_path])


def test_a_base_that_was_asked_other_suites_gives_no_interval_of_the_drop(tmp_path: Path) -> None:
    write_run(tmp_path / "base", [0, 1], [1, 1], suites=("other",), remedy="base")
    write_run(tmp_path / "run", [0, 1], [1, 0], suites=("add",), fit={}, remedy="talr")
    results = collect([tmp_path]).results.set_index("name")
    assert results.loc["run", ["general_lower", "general_upper"]].notna().all() and results.loc["run", ["drop_lower", "drop_upper"]].isna().all()


def test_two_sweeps_have_bases_of_their_own(tmp_path: Path) -> None:
    for name, start in (("one", [1, 1, 1, 1]), ("two", [1, 1, 0, 0])):
        write_run(tmp_path / name / "base", [0, 1], start, suites=SUITES, variant=name, remedy="base", base="base")
        write_run(tmp_path / name / "run", [0, 1], [1, 0, 0, 0], suites=SUITES, variant=name, remedy="talr", base="base")
    results = collect([tmp_path]).results.set_index("name")
    assert results.loc[["one/run", "two/run"], "drop"].tolist() == [0.75, 0.25]


def test_general_read_leniently_where_the_answers_say_so(small: Path) -> None:
    file = small / "talr-0" / "answers" / "general-test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**row, "lenient": row["correct"] or row["id"] == 2}) + "\n" for row in rows))
    results = collect([small]).results.set_index("name")
    # add: 1, 1, 0, 1 and sort: 1, 1, 0, 1; the third is right for a lenient reader
    assert list(results.loc["talr-0", ["general", "lenient/add", "lenient/sort", "general_lenient"]]) == [0.75, 1, 1, 1]
    assert results.loc[["base", "standard-0"], ["lenient/add", "general_lenient"]].isna().all(axis=None)


def test_a_merged_model_has_no_drift(tmp_path: Path) -> None:
    """What its test measured is from the merged model itself."""
    for name, alpha in (("talr", None), ("wise", 0.5)):
        run = write_run(tmp_path / name, [1, 0], remedy=name, rate=1e-3, seed=0, alpha=alpha)
        write_values(run, {"test": {"test/score": 0.5, "drift/kl": 0.2}})
    drift = collect([tmp_path]).results.set_index("name")["drift/kl"]
    assert drift["talr"] == 0.2 and pd.isna(drift["wise"])
