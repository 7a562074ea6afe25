import json
import re
import shutil
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lit_talr.cli.command_line import main
from lit_talr.heatmap import heatmap
from tests.heatmap.conftest import EVIL, ROWS
from tests.helpers.full_disk import read_only
from tests.helpers.scores import read_values
from tests.helpers.tiny import save_tokenizer

FILES = Path(__file__).parents[2] / "lit_talr" / "heatmap"


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "page.html"
    main(["heatmap", str(run), "--out", str(out)])
    return out


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoints")))


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def learned(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for example in data["examples"] for part in example["parts"] if "tokens" in part]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["heatmap", *words])
    error = capsys.readouterr().err
    assert stop.value.code == 1 and error.startswith("lit-talr: ") and error.count("\n") == 1, error
    return error


def test_every_supervised_token_has_its_numbers_under_both_models(made: Path) -> None:
    data = data_of(made)
    assert [example["number"] for example in data["examples"]] == [0, 1, 2, 3] and (data["domain"], data["split"]) == ("Records", "val")
    for part, row in zip(learned(data), ROWS, strict=True):
        num_tokens = len(row["response"].encode()) + 1  # and the end of the turn
        assert len(part["tokens"]) == num_tokens and part["tokens"][-1] == "<|im_end|>"
        for model in ("base", "tuned"):
            assert {name: len(values) for name, values in part[model].items()} == dict.fromkeys(["nll", "rank", "entropy", "weight"], num_tokens)
    assert learned(data)[0]["tokens"][:4] == [["é", 1, 2, "é"], ["2/2", 2, 2, "é"], "⏎\n", ["😀", 1, 4, "😀"]]
    assert data["examples"][0]["parts"][0]["text"].endswith("Say é.<|im_end|>\n<|im_start|>assistant\n")


def test_the_numbers_on_top_are_those_of_the_tokens(made: Path) -> None:
    data = data_of(made)
    for model, found in data["models"].items():
        nll, rank, entropy, weight = ([value for part in learned(data) for value in part[model][name]] for name in ("nll", "rank", "entropy", "weight"))
        count = len(nll)
        assert found["tokens"] == count == sum(len(row["response"].encode()) + 1 for row in ROWS)
        assert found["probability"] == pytest.approx(sum(exp(-value) for value in nll) / count, rel=1e-4)
        assert found["hard"] == pytest.approx(sum(exp(-value) < 0.2 for value in nll) / count, rel=1e-4)
        assert found["perplexity"] == pytest.approx(exp(sum(nll) / count), rel=1e-4)
        assert found["first"] == pytest.approx(rank.count(1) / count, rel=1e-4)
        assert found["entropy"] == pytest.approx(sum(entropy) / count, rel=1e-4) and found["weight"] == pytest.approx(sum(weight) / count, rel=1e-4)
        means = sorted(sum(part[model]["nll"]) / len(part["tokens"]) for part in learned(data))
        assert found["temperature"] == pytest.approx(means[1], rel=1e-4)  # the lower middle one of four
        assert weight == pytest.approx([max(exp(-value / means[1]), 0.01) for value in nll], rel=1e-3)
    assert data["models"]["tuned"]["perplexity"] != data["models"]["base"]["perplexity"]
    assert data["models"]["tuned"]["title"] == "talr at rate 3e-2" and re.fullmatch(r"heatmap\d+/model", data["models"]["base"]["title"])


def test_no_text_breaks_out_and_nothing_is_loaded(made: Path) -> None:
    text = made.read_text()
    data = data_of(made)
    assert "".join(token for token in learned(data)[1]["tokens"][:-3]).replace("␣", " ") == EVIL and EVIL in data["examples"][1]["parts"][0]["text"]
    template = (FILES / "page.html").read_text()
    for mark in ("<script", "</script", "<!--", "<img"):
        assert text.count(mark) == template.count(mark)
    assert "http://" not in text and "https://" not in text and "default-src 'none'" in text
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b", text) and not re.search(r"<script[^>]*\ssrc", text) and "@import" not in text
    script = (FILES / "page.js").read_text()
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttpRequest"):
        assert forbidden not in script


def test_a_run_that_was_moved_gives_the_same_page(made: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["heatmap", str(own)])
    assert (own / "heatmap.html").read_bytes() == made.read_bytes()
    assert "heatmap.html: 112 tokens of 4 example(s) under both models" in capsys.readouterr().out


def test_rows_and_models_in_place_of_the_runs(run: Path, tmp_path: Path) -> None:
    model = str(run.parent / "model")
    shutil.copytree(model, tmp_path / "both")
    save_tokenizer(tmp_path / "both")
    heatmap(run, base=str(tmp_path / "both"), tuned=str(tmp_path / "both"), split="train", rows=[7, 2], out=tmp_path / "page.html")
    data = data_of(tmp_path / "page.html")
    assert [example["number"] for example in data["examples"]] == [2, 7]
    assert all(part["base"] == part["tuned"] for part in learned(data))
    assert data["models"]["base"] == data["models"]["tuned"]


@pytest.mark.slow
def test_what_fit_leaves_is_a_run(tmp_path: Path) -> None:
    """The page over all validation rows has the perplexity that the fit has measured."""
    words = ["-c", "configs/base.yaml", "-c", "configs/model/lab.yaml", "-c", "configs/data/clinic.yaml", "-c", "configs/loss/standard.yaml"]
    words += ["--data.train_size", "16", "--data.val_size", "4", "--data.batching.batch_size", "16", "--trainer.max_steps", "1", "--trainer.logger", "false"]
    main(["fit", *words, "--trainer.callbacks", '["Summary", "HFExport"]', "--run", str(tmp_path / "run")])
    main(["heatmap", str(tmp_path / "run")])
    data = data_of(tmp_path / "run" / "heatmap.html")
    measured = read_values(tmp_path / "run", "fit")["val/perplexity"]
    assert len(data["examples"]) == 4 and data["models"]["base"]["title"] == "lab/base"
    assert data["models"]["tuned"]["perplexity"] == pytest.approx(measured, rel=1e-4) != data["models"]["base"]["perplexity"]


def test_a_run_without_an_export_is_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(own / "export")
    assert f"{own} has no export/, the tuned model" in refused(capsys, str(own))
    assert not (own / "heatmap.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no config.yaml, so it is no run" in refused(capsys, str(tmp_path))
    for content, sentence in (("a: [", "ParserError"), ("- 1", "TypeError"), ("data: {}", "KeyError: 'model'")):
        (tmp_path / "config.yaml").write_text(content)
        error = refused(capsys, str(tmp_path))
        assert "config.yaml is not the configuration of a `lit-talr fit`" in error and sentence in error


def test_a_page_that_cannot_be_written_is_refused_before_the_models_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_talr.heatmap.command.score_model", None)
    with read_only(tmp_path):
        error = refused(capsys, str(run), "--out", str(tmp_path / "new" / "page.html"))
    assert f"{tmp_path} cannot be read or written (Read-only file system); get the right to, or name another place." in error


def test_a_run_of_random_weights_needs_a_base(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(own, lambda config: config["model"].update(pretrained=None))
    assert "began with random weights, which are not saved; name a model to compare with as `--base`" in refused(capsys, str(own))


def test_data_that_is_gone_is_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(own, lambda config: config["data"]["init_args"].update(val=None))
    assert "`data.val` is missing" in refused(capsys, str(own))
    change(own, lambda config: config["data"].update(class_path="lost_domains.Sums"))
    assert "lost_domains" in refused(capsys, str(own))


def change(run: Path, edit: Any) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    edit(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_model_with_other_tokens_is_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tokenizer(own / "export", "llama3")
    error = refused(capsys, str(own))
    assert "export has another tokenizer than the run: token 256 is '<|finetune_right_pad_id|>', in the run '<|endoftext|>'" in error


def test_a_model_without_a_finite_loss_is_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = own / "export" / "model.safetensors"
    save_file({name: torch.full_like(value, torch.nan) for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    assert "`tuned`: " in (error := refused(capsys, str(own))) and "a loss that is no finite number" in error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rows", "[0,4]"], "`rows`: there is no val row 4 that can be shown; there are 4, numbered from 0."),
        (["--rows", "0,1"], "`rows` must be a list of numbers, such as [0,1], got 0,1."),
        (["--rows", "0-2"], "`rows` must be a list of numbers, such as [3,4,5], got 0-2."),
        (["--rows", "all"], "`rows` must be a list, such as [a,b], got all."),
        (["--split", "dev"], "`split` must be 'train', 'val', 'test', got dev."),
        (["--out", "page.pdf"], "`out` must be the name of the page, such as heatmap.html, got page.pdf."),
        (["--base", "./nowhere"], "./nowhere"),
        (["--tuned", "./nowhere"], "./nowhere"),
        (["--tuend", "x"], "--tuend"),
    ],
)
def test_bad_words_are_one_sentence(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert sentence in refused(capsys, str(run), *words)
