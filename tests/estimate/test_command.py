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


@pytest.mark.slow
def test_it_needs_no_weights_and_no_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.pretrained", str(folder), "--ranks", "2", "--length", "128", "--train-rows", "100"]
    main(["estimate", *CONFIGS, *words])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and printed.startswith("2 x DDP, bf16-mixed, 2 micro-batch(es) of 4 x 128 tokens on each rank, 100% supervised\n")
    lines = {cells[0]: cells[1:] for line in printed.splitlines() if (cells := [cell.strip() for cell in line.split("|")[1:-1]])}
    assert lines["H200 141"][2] == lines["RTX 4090"][2] == "yes" and lines["H200 141"][-1] != "-" and lines["weights"] == ["0.5 MiB"]


@pytest.mark.slow
def test_it_says_what_to_turn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = shape("qwen2", layers=3) | {"hidden_size": 8192, "intermediate_size": 65536, "num_attention_heads": 64}
    (folder / "config.json").write_text(json.dumps(wide))
    main(["estimate", *CONFIGS, "--model.pretrained", str(folder)])
    printed = capsys.readouterr().out
    assert " no |" in printed and "The time of the run needs --train-rows." in printed
    assert "To need less, one of these: --data.batching '{micro_batch_size: 1, micro_batch_tokens: null}', -c configs/adapter/lora.yaml, " in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--utilization", "0"], "`--utilization` must lie in (0, 1]"),
        (["--ranks", "two"], "`--ranks` must be a whole number, got 'two'."),
        pytest.param(["--model.pretrained", "/nowhere"], "/nowhere is not a folder with a config.json", marks=pytest.mark.slow),
        (["--supervised", "2"], "`--supervised` must lie in (0, 1]"),
        pytest.param(["--ranks", "0"], "`--ranks` must be at least 1", marks=pytest.mark.slow),
        pytest.param(["--trainer.precision", "64-true"], "`trainer.precision` must be one of bf16-mixed", marks=pytest.mark.slow),
        (["--utilisation", "0.5"], "there is no option `--utilisation`; did you mean --utilization?"),
        pytest.param(["--trainer.precision", "bf16-true"], "or insist with `model.bf16_weights: true`", marks=pytest.mark.slow),
        pytest.param(["-c", "configs/strategy/fsdp2.yaml", "-c", "configs/loss/kl.yaml"], "KL runs the base model", marks=pytest.mark.slow),
    ],
)
def test_refusals(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", *CONFIGS, "--model.pretrained", str(folder), *words])
    assert sentence in capsys.readouterr().err
