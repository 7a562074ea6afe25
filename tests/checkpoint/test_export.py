"""What is exported of a checkpoint is what was trained, whole or not there, and no pickle runs code on the way."""

import json
import os
import pickle
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_talr.callbacks import HFExport, WholeCheckpoint
from lit_talr.callbacks.hf_export import file_names, live_weights
from lit_talr.checkpoint.checkpoint_weights import PREFIX, cut_pieces, file_weights
from lit_talr.checkpoint.export import export
from lit_talr.checkpoint.pickles import refuse_code
from lit_talr.checkpoint.rounding import Rounding
from lit_talr.checkpoint.weights import merged_weights, write_shards
from lit_talr.cli.command_line import main
from lit_talr.losses import Standard
from lit_talr.modeling.adapters import Adapter, LoRA
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model
from lit_talr.utils.files import UMASK, write_json
from lit_talr.utils.manifest import MANIFEST, write_manifest
from lit_talr.utils.weight_files import tensors
from tests.helpers.fits import QWEN3, fit, merged
from tests.helpers.full_disk import read_only, small_files
from tests.helpers.models import ARCHITECTURES, OTHERS

SMALL = LoRA(r=2, alpha=6)


def state(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def run(folder: Path, path: Path, dtype: Any = None, precision: str = "32-true", lr: float = 0.3, **options: Any) -> dict[str, Tensor]:
    trainer = {
        "callbacks": [HFExport(dtype), WholeCheckpoint()],
        "default_root_dir": str(path),
        "precision": precision,
        "enable_checkpointing": True,
        "logger": False,
    }
    return fit(folder, Standard(), steps=2, optimizer=partial(torch.optim.SGD, lr=lr), trainer=trainer, **options)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from a base model, at a rate at which rounding loses a part of the update."""
    path = tmp_path_factory.mktemp("trained") / "run"
    run(folder, path, lr=3e-3)
    return path


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"architecture": {**QWEN3, "tie_word_embeddings": True}}, None),
        ({"architecture": {**QWEN3, "tie_word_embeddings": False}}, "bfloat16"),
        ({"adapter": SMALL}, None),
        ({"adapter": SMALL, "precision": "bf16-mixed"}, None),
        ({"precision": "bf16-mixed"}, "float16"),
        ({"precision": "64-true"}, None),
    ],
)
def test_a_checkpoint_is_exported_bitwise_as_the_run_is(folder: Path, tmp_path: Path, options: dict[str, Any], dtype: Any) -> None:
    run(folder, tmp_path / "run", dtype, **options)
    export(tmp_path / "run", tmp_path / "out", dtype)
    first, second = state(tmp_path / "run" / "export"), state(tmp_path / "out")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {path.name for path in (tmp_path / "run" / "export").iterdir()}
    for name in files - {"README.md"}:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "run" / "export" / name).read_bytes(), name


def test_the_folder_loads_with_its_dtype_tokenizer_and_card(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint,) = (trained / "checkpoints").iterdir()
    main(["export", "--ckpt", str(checkpoint), "--out", str(tmp_path / "out"), "--dtype", "float16"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{tmp_path / 'out'}: last-step=2.ckpt, 24 tensors in 1 file(s), float16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float16
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Fine-tuned by lit_talr" in card and "lit-talr export --ckpt" in card and "float16 loses" in card
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()} == {0o666 & ~UMASK}


def test_what_bfloat16_loses_is_the_formula(folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(trained, tmp_path / "out", "bfloat16")
    before, after = state(folder / "model"), state(trained / "export")
    flat = {key: torch.cat([part[name].flatten() for name in after]) for key, part in (("before", before), ("after", after))}
    update = flat["after"].double() - flat["before"].double()
    kept = flat["after"].bfloat16().double() - flat["before"].bfloat16().double()
    lost, moved = (kept - update).norm() / update.norm(), update != 0
    returned = (moved & (kept == 0)).sum() / moved.sum()
    assert 0.01 < lost and 0.01 < returned < 0.99
    sentence = f"bfloat16 loses {lost:.1%} of the update by its norm, and {returned:.1%} of the {moved.sum():,} weights that moved are back where they started"
    assert capsys.readouterr().out.splitlines()[1] == f"{sentence}; float32 keeps all of it."


def test_in_pieces_it_is_the_same(folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = []
    for size in (2**22, 7):
        monkeypatch.setattr("lit_talr.checkpoint.rounding.CHUNK", size)
        rounding = Rounding(torch.bfloat16, tensors(folder / "model"))
        for name, value in state(trained / "export").items():
            rounding.add(name, value)
        sums.append((rounding.lost, rounding.moved, rounding.returned))
    assert sums[0][1:] == sums[1][1:] and sums[0][0] == pytest.approx(sums[1][0], rel=1e-12)


def test_rounding_that_outweighs_the_update_is_no_percentage(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, tmp_path / "run", lr=1e-6)
    export(tmp_path / "run", tmp_path / "out", "bfloat16")
    assert re.search(r"bfloat16 loses the update, its rounding being \d+\.\d times as large by its norm, and 9\d\.\d%", capsys.readouterr().out)


def test_the_run_says_it_too(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lit_talr"):
        run(folder, tmp_path, "bfloat16")
    assert "bfloat16 loses" in caplog.text
    caplog.clear()
    run(folder, tmp_path / "full")
    assert "loses" not in caplog.text


def test_where_there_is_nothing_to_compare_with_it_says_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, tmp_path / "run", architecture=QWEN3)
    export(tmp_path / "run", tmp_path / "out", "bfloat16")
    assert "not known: the run began with random weights, so there is nothing to compare with." in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "skeleton" / "export.json").read_text())
    (tmp_path / "run" / "skeleton" / MANIFEST).unlink()
    write_json(tmp_path / "run" / "skeleton" / "export.json", {**record, "pretrained": "/nowhere"})
    export(tmp_path / "run", tmp_path / "again", "bfloat16")
    assert "the base model is not there to compare with: /nowhere is not a folder" in capsys.readouterr().out


def test_a_model_that_did_not_move_loses_nothing(folder: Path) -> None:
    rounding = Rounding(torch.bfloat16, tensors(folder / "model"))
    for name, value in state(folder / "model").items():
        rounding.add(name, value)
    assert "no weight differs from the base model" in str(rounding)


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("adapter", [None, SMALL])
def test_the_names_are_those_that_transformers_writes(tmp_path: Path, family: str, adapter: Adapter | None) -> None:
    torch.manual_seed(0)
    plain = load_model(None, None, ARCHITECTURES[family], 43, None)
    plain.save_pretrained(tmp_path / "start")
    backbone = Backbone(load_model(str(tmp_path / "start"), None, None, 43, None), adapter)
    model, config = backbone.model, backbone.adapter_config
    (tmp_path / "out").mkdir()
    shutil.copy(tmp_path / "start" / "config.json", tmp_path / "out")
    weights = live_weights(model, None)
    write_shards(tmp_path / "out", file_names(model), merged_weights(weights, config) if config else weights, torch.float32)
    first, second = state(tmp_path / "start"), state(tmp_path / "out")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_are_read_back_by_transformers(tmp_path: Path, family: str) -> None:
    """Experts are written fused, as the model has them, and read so."""
    model = Backbone(load_model(None, None, OTHERS[family], 43, None)).model
    model.config.save_pretrained(tmp_path)
    write_shards(tmp_path, file_names(model), live_weights(model, None), torch.float32)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_merged_one_by_one_is_merged_as_a_whole() -> None:
    backbone = Backbone(load_model(None, None, ARCHITECTURES["qwen2"], 43, None), SMALL)  # whose layers have biases
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    whole = merged(backbone.model, backbone.model.state_dict())
    assert backbone.adapter_config is not None
    weights = merged_weights(live_weights(backbone.model, None), backbone.adapter_config)
    assert weights.shapes == {name: tuple(value.shape) for name, value in whole.items()}
    assert all(torch.equal(weights.read(name), value) for name, value in whole.items())


def test_shards_are_listed_and_hold_no_more_than_they_may(trained: Path, tmp_path: Path) -> None:
    (checkpoint,) = (trained / "checkpoints").iterdir()
    shutil.copytree(trained / "skeleton", tmp_path, dirs_exist_ok=True)
    names = json.loads((tmp_path / "export.json").read_text())["names"]
    number = write_shards(tmp_path, names, file_weights(checkpoint), torch.float32, max_shard_size=20_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == number > 1 and all(path.stat().st_size < 22_000 for path in files)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state(trained / "export").items())


def test_a_write_that_fails_leaves_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, metadata: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lit_talr.checkpoint.weights.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        export(trained, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_record_is_written_once(folder: Path, tmp_path: Path) -> None:
    """So that a resumed run does not change what its checkpoints are read by."""
    run(folder, tmp_path / "run")
    before = (tmp_path / "run" / "skeleton" / "export.json").stat().st_mtime_ns
    run(folder, tmp_path / "run")
    assert (tmp_path / "run" / "skeleton" / "export.json").stat().st_mtime_ns == before


def test_the_same_line_after_its_end_keeps_the_folder(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(trained, tmp_path / "out")
    before = (tmp_path / "out" / "lit_talr_manifest.json").stat().st_mtime_ns
    export(trained, tmp_path / "out")
    assert "is there already, from the same checkpoint" in capsys.readouterr().out
    assert (tmp_path / "out" / "lit_talr_manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="out is there already; name a new folder"):
        export(trained, tmp_path / "out", "bfloat16")


def test_refusals(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("")
    with pytest.raises(ValueError, match="`out`: .*used is there already; name a new folder"):
        export(trained, tmp_path / "used")
    with pytest.raises(ValueError, match="`ckpt`: .*nowhere does not exist; give a run's folder"):
        export(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match=f"export is a model folder already, no checkpoint; for another export, as in another dtype, give `--ckpt {trained}`."):
        export(trained / "export", tmp_path / "out")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="checkpoints holds no checkpoint"):
        export(tmp_path / "run", tmp_path / "out")
    (checkpoint,) = (trained / "checkpoints").iterdir()
    moved = Path(shutil.copy(checkpoint, tmp_path / "run" / "checkpoints" / "a.ckpt"))
    with pytest.raises(ValueError, match="export.json, which HFExport writes as training starts, is not there; run `lit-talr fit`"):
        export(moved, tmp_path / "out")
    moved.write_bytes(moved.read_bytes()[:-100])
    with pytest.raises(ValueError, match="`ckpt`: .*a.ckpt is not a whole checkpoint: it is cut short"):
        export(moved, tmp_path / "out")
    shutil.copytree(trained / "skeleton", tmp_path / "run" / "skeleton")
    torch.save({"state_dict": {f"{PREFIX}model.norm.weight": torch.zeros(16)}}, moved)
    with pytest.raises(ValueError, match="a.ckpt has no tensor `model.embed_tokens.weight`, which .*export.json names"):
        export(moved, tmp_path / "out")
    torch.save({"weights": {}}, moved)
    with pytest.raises(ValueError, match="a.ckpt is not a checkpoint of lit-talr fit .*; give a run's folder"):
        export(moved, tmp_path / "out")
    torch.save({"state_dict": {"w": torch.zeros(3)}}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="foreign.pt is not a checkpoint of lit-talr fit .no tensor in it begins with backbone.model..; give a run's folder"):
        export(tmp_path / "foreign.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Evil:
    """A pickle of it makes a folder when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["file", "deepspeed", "fsdp2"])
def test_no_pickle_runs_code(trained: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(trained / "skeleton", tmp_path / "run" / "skeleton")
    path = tmp_path / "run" / "checkpoints" / "a.ckpt"
    path.parent.mkdir()
    evil = Evil(tmp_path / "evil")
    if kind == "file":
        torch.save({"state_dict": {}, "callbacks": evil}, path)
    else:
        (path / "checkpoint").mkdir(parents=True)
        (path / ".metadata").write_bytes(pickle.dumps(evil))
        if kind == "deepspeed":
            (path / "latest").write_text("checkpoint")
            for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
                torch.save({"optimizer_state_dict": evil}, path / "checkpoint" / name)
        write_manifest(path)
    with pytest.raises(ValueError, match="is not a checkpoint of lit-talr fit"):
        export(path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"could run code"):
        refuse_code(path)
    assert not (tmp_path / "evil").exists() and not (tmp_path / "out").exists()


def test_deepspeed_is_given_no_folder_elsewhere(tmp_path: Path) -> None:
    """It reads the folder that ``latest`` names, so that a pickle there would not be looked at."""
    (tmp_path / "a.ckpt" / "checkpoint").mkdir(parents=True)
    (tmp_path / "a.ckpt" / "latest").write_text("../elsewhere")
    with pytest.raises(ValueError, match=r"its `latest` names '../elsewhere', not its own folder `checkpoint`; give a checkpoint that"):
        refuse_code(tmp_path / "a.ckpt")


@pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled")
def test_an_entry_of_fsdp2_that_is_no_tensor_runs_no_code(tmp_path: Path) -> None:
    """Torch unpickles an optimizer's options without care."""
    for name, rate in (("plain", 0.1), ("evil", Evil(tmp_path / "ran"))):
        dcp.save({"weight": torch.zeros(2), "optimizer": {"lr": rate, "betas": (0.9, 0.95)}}, checkpoint_id=tmp_path / name, no_dist=True)
    refuse_code(tmp_path / "plain")
    with pytest.raises(ValueError, match="distcp names posix.mkdir, which could run code"):
        refuse_code(tmp_path / "evil")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("verb", ["export", "fit", "test"])
def test_a_pickle_is_refused_in_one_sentence_that_advises_nothing_unsafe(
    folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    path = tmp_path / "run" / "checkpoints" / "a.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "callbacks": Evil(tmp_path / "evil")}, path)
    words = ["-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/standard.yaml", "--run", str(tmp_path / "run")]
    words += [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    words += ["--model.pretrained", str(folder / "model"), "--model.tokenizer", str(folder / "tokenizer"), "--ckpt_path", str(path)]
    if verb == "export":
        shutil.copytree(trained / "skeleton", tmp_path / "run" / "skeleton")
        words = ["--ckpt", str(path), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main([verb, *words])
    error = capsys.readouterr().err
    assert stop.value.code == 1 and error.count("\n") == 1 and "names posix.mkdir, which could run code" in error
    assert "weights_only" not in error and not (tmp_path / "evil").exists()


def test_a_file_of_torch_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.ckpt")
    with pytest.raises(
        ValueError, match="`ckpt_path`: .*a.ckpt is not loaded: it is no checkpoint of Lightning .*; give a checkpoint that `lit-talr fit` wrote"
    ):
        refuse_code(tmp_path / "a.ckpt")


def test_from_python_too_a_pickle_is_refused(folder: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "callbacks": Evil(tmp_path / "evil")}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="could run code"):
        fit(folder, Standard(), steps=1, ckpt_path=str(tmp_path / "a.ckpt"))
    assert not (tmp_path / "evil").exists()


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["export", "--ckpt", str(trained), "--out", str(tmp_path / "file" / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 1 and error.count("\n") == 1 and "out could not be written (File exists: file" in error
    with small_files(3_000), pytest.raises(SystemExit):
        main(["export", "--ckpt", str(trained), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "out could not be written (File too large: tokenizer.json) and is as it was before; make room" in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with read_only(tmp_path), pytest.raises(SystemExit):
        main(["export", "--ckpt", str(trained), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "out could not be written (Read-only file system) and is as it was before; make room, or give a folder" in error


def test_a_piece_is_cut_across_parts() -> None:
    parts = [torch.arange(0, 4), torch.arange(4, 5), torch.arange(5, 9)]
    assert torch.cat(cut_pieces(parts, 2, 5)).tolist() == [2, 3, 4, 5, 6]
    assert torch.cat(cut_pieces(parts, 5, 4)).tolist() == [5, 6, 7, 8]
