"""vLLM itself needs a GPU; a stand-in with its interface (0.9 and later) shows what it is asked and how its tokens are read."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lit_talr.cli.command_line import main
from lit_talr.modeling.generation import Generation, Response
from lit_talr.modeling.vllm_engine import VLLMEngine
from lit_talr.utils.files import read_json_lines
from tests.helpers.scores import read_values
from tests.helpers.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer("qwen2")
STOP = TOKENIZER.eos_token_id
LAB = ["-c", "configs/experiment/lab_clinic.yaml", "--data.test_size", "3", "--trainer.callbacks", "[Summary, DomainScore]"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-in was asked; it answers with the prompt's tokens, a stop token and one more."""
    seen: dict[str, Any] = {}

    class LLM:
        def __init__(self, **options: Any) -> None:
            seen["options"] = options

        def generate(self, prompts: list[dict[str, list[int]]], sampling: dict[str, Any], *, use_tqdm: bool) -> list[SimpleNamespace]:
            seen["sampling"] = sampling
            stop = sampling["stop_token_ids"][0]
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=(*prompt["prompt_token_ids"][:5], stop, 7))]) for prompt in prompts]

    module = ModuleType("vllm")
    vars(module).update(LLM=LLM, SamplingParams=dict)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return seen


def test_answers_end_at_our_stop_tokens_and_nothing_of_the_models_own_settings_is_read(asked: dict[str, Any]) -> None:
    engine = VLLMEngine("folder", "main", "bf16 weights")
    answers = engine.generate(TOKENIZER, [list(b"abc"), [], list(b"de")], [STOP], Generation(max_new_tokens=9, engine="vllm"))
    assert answers == [Response("abc", 3, cut=False), Response("", 0, cut=False, unanswered=True), Response("de", 2, cut=False)]
    assert asked["options"]["model"] == "folder" and asked["options"]["revision"] == "main" and asked["options"]["dtype"] == "bfloat16"
    assert not asked["options"]["trust_remote_code"] and asked["options"]["generation_config"] == "vllm"
    sampling = asked["sampling"]
    assert (sampling["temperature"], sampling["top_p"], sampling["top_k"], sampling["max_tokens"]) == (0.0, 1.0, -1, 9)
    assert sampling["stop_token_ids"] == [STOP] and sampling["ignore_eos"] and sampling["repetition_penalty"] == 1.0


def test_the_command_tests_a_folder_by_it(asked: dict[str, Any], tmp_path: Path) -> None:
    main(["test", *LAB, "--model.generation.engine", "vllm", "--run", str(tmp_path / "run")])
    assert asked["options"]["model"] == "lit_talr/lab/base" and asked["options"]["dtype"] == "float32"
    rows = read_json_lines(tmp_path / "run" / "answers" / "test.jsonl")
    assert [row["num_tokens"] for row in rows] == [5, 5, 5]
    assert read_values(tmp_path / "run", "test")["test/num_examples"] == 3


def test_another_engine_beside_it_is_refused(asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suites = json.dumps([{"class_path": "GeneralScore", "init_args": {"suites": {"facts": "Skills"}}}])
    with pytest.raises(SystemExit):
        main(["test", *LAB, "--model.generation.engine", "vllm", "--run", str(tmp_path / "run"), "--trainer.callbacks+", suites])
    assert "`generation.engine: vllm` answers the domain, and another engine is asked for general abilities; memory holds one" in capsys.readouterr().err


def test_without_it_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SystemExit):
        main(["test", *LAB, "--model.generation.engine", "vllm", "--run", str(tmp_path / "run")])
    assert "`generation.engine: vllm` needs vLLM, which is not installed" in capsys.readouterr().err


@pytest.mark.slow
def test_weights_that_are_in_no_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *LAB[:2], "--model.generation.engine", "vllm", "--run", str(tmp_path / "run"), "--data.train_size", "8"])
    assert "`generation.engine: vllm` reads a model folder in one process" in capsys.readouterr().err


def test_other_arithmetics_are_refused() -> None:
    with pytest.raises(ValueError, match="computes in fp32, bf16 weights, fp16 weights, not in fp64; set `model.arithmetic`"):
        VLLMEngine("folder", None, "fp64")
