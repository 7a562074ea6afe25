"""Nothing that is loaded runs its own code, and settings that nobody could save do not stop a run."""

import io
import json
import logging
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import HFExport
from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.losses import Standard
from lit_talr.modeling.generation import remark
from lit_talr.modeling.loading import check_weights, load_model
from lit_talr.modeling.sharded import empty_model, load_shards
from lit_talr.training.building import say_positions
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
        ({"eos_token_id": ["x", 1]}, ['eos_token_id: ["x", 1]']),  # which transformers takes
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


def test_rows_beyond_the_models_positions_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_data(tmp_path)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32}))
    with caplog.at_level(logging.WARNING, "lit_talr"):
        fit(tmp_path, Standard(), steps=1)
    (said,) = [record.getMessage() for record in caplog.records if "positions" in record.getMessage()]
    assert said.startswith("`data.encoding.max_length`: the longest row has ") and "more than the 32 positions of the model" in said


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    load_model(None, None, {**QWEN3, "tie_word_embeddings": True}, 259, None).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


GATE = "model.layers.0.mlp.gate_proj.weight"


def write_weights(folder: Path, values: dict[str, torch.Tensor | None]) -> None:
    """Writes, replaces or (None) removes tensors."""
    weights = {**load_file(folder / "model.safetensors"), **values}
    save_file({name: value for name, value in weights.items() if value is not None}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({GATE: None}, f"`{GATE}`, (which|for which)"),
        ({"foo.bar": torch.ones(1)}, "`foo.bar`, (which its|for which)"),
        ({GATE: torch.ones(3, 5)}, f"`{GATE}` .*3, 5"),
        ({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, None),  # of older versions of transformers
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(
    saved: Path, tmp_path: Path, values: dict[str, torch.Tensor | None], message: str | None
) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    write_weights(folder, values)

    def shards() -> None:
        load_shards(empty_model(folder, None, None, True), folder, torch.device("cpu"))

    for load in (lambda: load_model(str(folder), None, None, 0, None), lambda: check_weights(folder), shards):
        with nullcontext() if message is None else pytest.raises(ValueError, match=message):
            load()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 100}, r"do not fit config.json, which asks for `model.embed_tokens.weight` of \[100, .*\], and it is \[259, "),
        ({"num_hidden_layers": 12}, "^[^:]*config.json is no configuration of its `model_type` .*`num_hidden_layers` .12. must be equal"),
        ({"model_type": "mamba"}, "^[^:]*config.json is no configuration of its `model_type` .property 'layer_types'"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "has quantised weights .`quantization_config` of bitsandbytes in its",
        ),
    ],
)
def test_a_configuration_of_another_model_is_refused(saved: Path, tmp_path: Path, fields: dict[str, object], message: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(ValueError, match=message) as refused:
        load_tokenizer(str(folder))
        load_model(str(folder), None, None, 0, None)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "it is a pointer of Git LFS, which `git lfs pull` replaces"),
        (b"<!DOCTYPE html><html></html>", "it is a web page"),
        (None, ".*not fully covered"),
    ],
)
def test_a_file_of_weights_that_is_none_is_named(saved: Path, tmp_path: Path, content: bytes | None, reason: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9] if content is None else content)
    with pytest.raises(ValueError, match=f"model/model.safetensors is not a whole safetensors file .{reason}.*; fetch or write it again"):
        load_model(str(folder), None, None, 0, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "model has no tokenizer.json .*; give the model's own as `model.tokenizer`"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
            "model/tokenizer.json is not a file of a tokenizer .it is a pointer of Git LFS.*; fetch or write it again",
        ),
    ],
)
def test_a_folder_without_a_tokenizer_file_says_so(saved: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    if content:
        (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(str(folder))


def test_a_classifier_is_refused_by_its_name(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen3ForSequenceClassification"]}))
    write_weights(folder, {"score.weight": torch.ones(2, 16)})
    with pytest.raises(
        ValueError, match="model is no causal language model: `architectures` in its config.json is Qwen3ForSequenceClassification, which has no"
    ):
        load_model(str(folder), None, None, 0, None)


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (20, "`model.generation.max_new_tokens`: the longest prompt has 20 tokens, and with 13 new ones that is more than the 32 positions of the model"),
        (32, "`model.generation.max_new_tokens`: the longest prompt has 32 tokens"),
        (19, None),
    ],
)
def test_responses_beyond_the_models_positions_are_said(caplog: pytest.LogCaptureFixture, length: int, said: str | None) -> None:
    model, data = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=32)), SimpleNamespace(encoded={}, prompts={"test": [[], [1] * length]})
    with caplog.at_level(logging.WARNING, "lit_talr"):
        say_positions(model, data, 13)  # type: ignore[arg-type]
    assert [record.getMessage()[: len(said or "")] for record in caplog.records] == ([said] if said else [])
