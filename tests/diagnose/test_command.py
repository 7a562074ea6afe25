"""``lit-talr diagnose`` as it is typed."""

import json
from pathlib import Path

import pytest

from lit_talr.cli.command_line import main
from tests.diagnose.runs import write_run


def test_it_prints_a_plain_table_and_writes_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["diagnose", str(write_run(tmp_path / "short"))])
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'short'}: Standard, rate 2e-3, 2 epoch(s)\n" in printed and "\x1b" not in printed
    lines = {cells[0]: cells[1:] for line in printed.splitlines() if (cells := [cell.strip() for cell in line.split("|")[1:-1]])}
    assert lines["hard for the base (p < 0.2)"] == ["400 (40%)", "400 (40%)"]
    assert lines["of these still hard after 2 epoch(s)"] == ["300 (75% [71%, 79%])", "40 (10% [7%, 13%])"]
    assert lines["TALR's temperature: base, now"] == ["4.80, 2.50"] * 2
    assert "\nrecommendation: TALR\n" in printed and "fairly sure (one model family, lab only)" in printed and "drift: not logged" in printed
    values = json.loads((tmp_path / "short" / "diagnosis.json").read_text())
    assert (
        values["unseen"]["share"] == 0.75 and values["trained"]["num_still"] == 40 and values["unseen"]["interval"] == pytest.approx([0.7054, 0.7899], abs=1e-4)
    )
    assert values["advice"]["remedy"] == "TALR" and values["advice"]["helps"] and values["rule"]["cut"] == 0.63
    assert values["rule"]["limits"] == "one model family, lab only" and values["drift"] is None


def test_the_numbers_go_where_they_are_asked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "short")
    before = sorted(run.iterdir())
    main(["diagnose", str(run), "--json", str(tmp_path / "new" / "numbers.json")])
    assert sorted(run.iterdir()) == before and json.loads((tmp_path / "new" / "numbers.json").read_text())["epochs"] == 2


def test_a_refusal_is_one_sentence_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "short", loss="TALR")
    for words in (["diagnose", str(run)], ["diagnose", str(tmp_path / "nowhere")], ["diagnose"], ["diagnose", str(run), "--jsn", "x"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        error = capsys.readouterr().err
        assert end.value.code == 1 and error.startswith("lit-talr: ") and error.count("\n") == 1
    assert not (run / "diagnosis.json").exists()


def test_its_help_says_what_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["diagnose", "--help"])
    assert end.value.code == 0 and "one model family" in " ".join(capsys.readouterr().out.split())
