"""The command that fits and tests every remedy, on a few invented rows and with a few of them."""

from pathlib import Path

import pytest

from benchmarks.remedies import main
from tests.helpers.medcalc_rows import write_medcalc
from tests.helpers.tiny import save_tokenizer

SMALL = '{"model_type": "qwen3", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}'


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    options = {"--model.architecture": SMALL, "--model.generation.max_new_tokens": "4", "--data.validation": "0.3", "--data.encoding.max_length": "4096"}
    return [
        *("--tokenizer", str(save_tokenizer(tmp_path / "tokenizer")), "--out", str(tmp_path / "out"), "--base-steps", "1", "--steps", "1"),
        *files(tmp_path),
        *(word for option in options.items() for word in option),
    ]


def files(folder: Path) -> list[str]:
    _, train, _, test = write_medcalc(folder)
    return ["--train", train, "--test", test]


@pytest.mark.slow
def test_a_row_for_each_remedy(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*words, "--only", "standard,flow,lora"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| remedy", "| base model", "| standard", "| flow", "| lora", "| Wise-FT, alpha .5"]
    assert all(row.count("|") == rows[0].count("|") for row in rows)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "base-nll: " in log and "Logging error" not in log


@pytest.mark.slow
def test_a_remedy_that_fails_is_a_row_and_the_others_go_on(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no disk")

    monkeypatch.setattr("lit_talr.losses.FLOW.prepare", fail)
    with pytest.raises(SystemExit) as stop:
        main([*words, "--only", "flow,dft"])
    rows = capsys.readouterr().out
    assert stop.value.code == 1 and "| flow | failed, see " in rows and "| dft | " in rows
