"""Nothing that is loaded runs its own code, and settings that nobody could save do not stop a run."""

import io
import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import HFExport
from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.losses import Standard
from lit_talr.modeling.generation import remark
from lit_talr.modeling.loading import load_model
from lit_talr.modeling.sharded import empty_model
from tests.helpers.fits import QWEN3, fit, write_data
from tests.helpers.tiny import save_tokenizer

CODE = "open({path!r}, 'w').close()\nclass Config: ...\nclass Model: ...\nclass Tokenizer: ...\n"
MAP = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with code of its own, and a person who answers every question with yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    (tmp_path / "own.py").write_text(CODE.format(path=str(tmp_path / "ran")))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": MAP}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Strange", "auto_map": {"AutoTokenizer": MAP["AutoTokenizer"]}}))
    return tmp_path


def test_code_of_a_model_is_not_run(folder: Path) -> None:
    for load in (lambda: load_model(str(folder), None, None, 0, None), lambda: empty_model(folder, None, None, False), lambda: load_tokenizer(str(folder))):
        with pytest.raises(ValueError, match="needs Python code of its own") as refused:
            load()
        assert "trust_remote_code" not in str(refused.value) and "\n" not in str(refused.value)
    assert not (folder / "ran").exists()


def test_a_model_that_transformers_knows_is_loaded_without_the_code_that_it_brings(folder: Path) -> None:
    torch.manual_seed(0)
    load_model(None, None, QWEN3, 259, None).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": MAP}))
    save_tokenizer(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "auto_map": {"AutoTokenizer": MAP["AutoTokenizer"]}}))
    assert type(load_model(str(folder), None, None, 0, None)).__name__ == "Qwen3ForCausalLM"
    empty_model(folder, None, None, False)
    load_tokenizer(str(folder))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("settings", "passed_over"),
    [
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, ["temperature: 0.6", "top_p: 0.9"]),  # Llama 2, Vicuna
        ({"temperature": 0.6, "do_sample": True}, []),
        ({"early_stopping": 5, "bos_token_id": 1}, ["early_stopping: 5"]),  # with which transformers loads no model
        ({"num_return_sequences": 3}, ["num_return_sequences: 3"]),
        ({"pad_token_id": -1}, ["pad_token_id: -1"]),
    ],
)
def test_a_base_with_generation_settings_that_cannot_be_saved_is_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, object], passed_over: list[str]
) -> None:
    write_data(tmp_path)
    file = tmp_path / "model" / "generation_config.json"
    file.write_text(json.dumps(settings))
    remark.cache_clear()
    with caplog.at_level(logging.WARNING, "lit_talr"):
        fit(tmp_path, Standard(), steps=1, trainer={"callbacks": [HFExport()], "default_root_dir": str(tmp_path / "run")})
    remarks = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert len(remarks) == len(passed_over) and all(f"{file}: `{setting}`" in text for setting, text in zip(passed_over, remarks, strict=True))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "export").generation_config
    exported.validate(strict=True)
    assert exported.do_sample == settings.get("do_sample") or not passed_over
    assert exported.bos_token_id == settings.get("bos_token_id")


def test_generation_settings_that_are_no_json_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_data(tmp_path)
    file = tmp_path / "model" / "generation_config.json"
    file.write_text("{")
    remark.cache_clear()
    with caplog.at_level(logging.WARNING, "lit_talr"):
        load_model(str(tmp_path / "model"), None, None, 0, None)
        empty_model(tmp_path / "model", None, None, False)
    assert [record.getMessage().split(" holds")[0] for record in caplog.records] == [str(file)]
