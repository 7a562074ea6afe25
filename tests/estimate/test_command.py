"""``lit-talr estimate`` as it is typed."""

import json
from pathlib import Path

import pytest

from lit_talr.cli.command_line import main
from tests.estimate.runs import shape

CONFIGS = "-c configs/base.yaml -c configs/model/qwen2.5-3b.yaml -c configs/data/medcalc.yaml -c configs/loss/talr.yaml".split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder that has a configuration alone."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(shape("qwen2")))
    return made


def test_it_needs_no_weights_and_no_rows(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.pretrained", str(folder), "--ranks", "2", "--length", "128", "--train-rows", "100", "--json", str(tmp_path / "out.json")]
    main(["estimate", *CONFIGS, *words])
    printed = capsys.readouterr().out
    values = json.loads((tmp_path / "out.json").read_text())
    assert "\x1b" not in printed and printed.startswith("2 x DDP, bf16-mixed, 2 micro-batch(es) of 4 x 128 tokens on each rank, 100% supervised\n")
    lines = {cells[0]: cells[1:] for line in printed.splitlines() if (cells := [cell.strip() for cell in line.split("|")[1:-1]])}
    assert lines["H200 141"][2] == "yes" and lines["weights"] == ["0.00"] and values["gpus"]["RTX 4090"]["fits"]
    assert values["steps"] == 20 * 7 and values["memory"]["gradients"] == values["memory"]["engine"]


def test_it_says_what_to_turn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = shape("qwen2", layers=40) | {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32}
    (folder / "config.json").write_text(json.dumps(wide))
    main(["estimate", *CONFIGS, "--model.pretrained", str(folder)])
    printed = capsys.readouterr().out
    assert (
        "To need less, each alone:" in printed
        and "-c configs/strategy/fsdp2.yaml on 8 GPUs" in printed
        and "The time of the run needs --train-rows." in printed
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--utilisation", "0"], "`--utilisation` must lie in (0, 1]"),
        (["--supervised", "2"], "`--supervised` must lie in (0, 1]"),
        (["--ranks", "0"], "`--ranks` must be at least 1"),
        (["--lenght", "5"], "lenght"),
    ],
)
def test_refusals(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", *CONFIGS, "--model.pretrained", str(folder), *words])
    assert sentence in capsys.readouterr().err
