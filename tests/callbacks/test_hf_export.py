import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import HFExport
from lit_talr.callbacks.hf_export import license_of
from lit_talr.losses import Standard
from lit_talr.utils.files import UMASK
from tests.helpers.fits import QWEN3, fit


def export(folder: Path, run: Path, dtype: Any = None, precision: str = "32-true", tied: bool = True) -> tuple[dict[str, torch.Tensor], Path]:
    trainer = {"callbacks": [HFExport(dtype)], "default_root_dir": str(run), "precision": precision}
    weights = fit(folder, Standard(), steps=1, architecture={**QWEN3, "tie_word_embeddings": tied}, trainer=trainer)
    return weights, run / "export"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("asked", "precision", "expected"), [(None, "bf16-mixed", torch.float32), ("bfloat16", "32-true", torch.bfloat16)])
def test_from_pretrained_loads_the_weights_in_the_dtype_they_were_written(
    folder: Path, tmp_path: Path, tied: bool, asked: Any, precision: str, expected: torch.dtype
) -> None:
    weights, written = export(folder, tmp_path, asked, precision, tied)
    loaded = AutoModelForCausalLM.from_pretrained(written)
    assert loaded.dtype == expected
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, weights[name].to(expected)), name
    assert ("lm_head.weight" in load_file(written / "model.safetensors")) != tied  # tied weights are written once


def test_the_folder_ends_answers_where_training_did_and_is_readable(folder: Path, tmp_path: Path) -> None:
    _, written = export(folder, tmp_path)
    settings = json.loads((written / "generation_config.json").read_text())
    assert (settings["eos_token_id"], settings["pad_token_id"]) == ([258], 256)
    assert {file.stat().st_mode & 0o777 for file in written.iterdir()} == {0o666 & ~UMASK}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "skeleton"]  # no temporary folder stays


def test_the_licence_of_the_base_model(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert license_of(str(tmp_path)) == "apache-2.0"
    assert license_of("owner/name") == "see https://huggingface.co/owner/name"
    assert license_of(None) == "none"
