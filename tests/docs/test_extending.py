"""The code of docs/extending.md runs, as its commands run it."""

import json
import re
from pathlib import Path

import pytest

from lit_talr.cli.command_line import main
from tests.helpers.tiny import save_tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture
def common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name, code in re.findall(r"`(my_\w+\.py)`:\n\n```python\n(.*?)```", PAGE, flags=re.DOTALL):
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    save_tokenizer(tmp_path / "tokenizer", "qwen2")
    tiny = ["-c", "configs/base.yaml", "-c", "configs/model/tiny.yaml", "--model.tokenizer", str(tmp_path / "tokenizer")]
    return ["fit", *tiny, "--trainer.max_steps", "2", "--run", str(tmp_path / "run")]


def test_a_loss_of_ones_own(common: list[str], tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": "a", "response": "b" * length}) + "\n" for length in range(1, 9)]
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(tmp_path / "rows.jsonl"))]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    main([*common, "-c", "configs/data/records.yaml", *files, "--model.loss", "my_losses.Power", "--model.loss.power", "0.7"])
    assert "power: 0.7" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_domain_of_ones_own(common: list[str], tmp_path: Path) -> None:
    main([*common, "-c", "configs/loss/talr.yaml", "--data", "my_domains.Sums"])
    main(["test", "-c", str(tmp_path / "run" / "config.yaml"), "--ckpt_path", "last", "--model.generation.max_new_tokens", "2"])
    assert "test/score" in json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
