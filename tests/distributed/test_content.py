"""On two ranks, under every strategy, a checkpoint in which one bit has changed is not used; torchrun runs this file too."""

import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from lit_talr.callbacks import HFExport, WholeCheckpoint
from lit_talr.checkpoint.find import last_checkpoint, why_not_whole
from lit_talr.checkpoint.whole import writer_of
from lit_talr.cli.command_line import main
from lit_talr.losses import TALR
from lit_talr.modeling.strategies import end_process
from tests.distributed.cases import chosen, torchrun
from tests.distributed.test_command_line import lit_talr, options
from tests.distributed.worker import STRATEGIES
from tests.helpers.damage import flip, flipped, random_flips
from tests.helpers.fits import fit

CASES = ["ddp:32-true", "zero2:32-true", "zero3:32-true", "fsdp2:32-true", "zero1:bf16-mixed", "zero3-offload:bf16-mixed"]
pytestmark = [pytest.mark.ranks, pytest.mark.slow]


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    out = tmp_path_factory.mktemp("out")
    if cases := chosen(request):
        torchrun("tests.distributed.test_content", str(folder), str(out), *cases)
    return out


@pytest.fixture
def run(out: Path, tmp_path: Path, case: str) -> Path:
    """A run of two steps with a checkpoint of each, which a test may damage."""
    return Path(shutil.copytree(out / case.replace(":", "_"), tmp_path / "run"))


@pytest.mark.parametrize("case", CASES)
def test_two_hundred_flips_are_all_found(run: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "last-step=2.ckpt"
    for file, position, bit in random_flips(path, 200):
        with flipped(file, position, bit):
            assert why_not_whole(path) is not None, (file, position, bit)
    assert last_checkpoint(run) == path
    main(["export", "--ckpt", str(path), "--out", str(run / "whole")])
    for file, position, bit in random_flips(path, 3, seed=1):
        with flipped(file, position, bit):
            for words in (
                ["export", "--ckpt", str(path), "--out", str(run / "damaged")],
                *([verb, *options(run, run), "--ckpt_path", str(path)] for verb in ("fit", "test")),
            ):
                with pytest.raises(SystemExit):
                    main(words)
                assert f"{path.name} is not a whole checkpoint: it " in capsys.readouterr().err, words


@pytest.mark.parametrize("case", CASES[1:])
def test_a_file_of_another_step_is_found(run: Path, case: str) -> None:
    old, new = (run / "checkpoints" / f"last-step={step}.ckpt" for step in (1, 2))
    for file in (file for file in new.rglob("*") if file.is_file()):
        other = old / file.relative_to(new)
        if other.read_bytes() != file.read_bytes():
            content = file.read_bytes()
            shutil.copy(other, file)
            assert why_not_whole(new) is not None, file
            assert last_checkpoint(run) == old
            file.write_bytes(content)
    assert why_not_whole(new) is None
    (new / "stray.pt").touch()
    assert why_not_whole(new) == "has stray.pt, which its manifest does not list"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp-cpu", "zero2-cpu", "zero3-cpu", "fsdp2-cpu"])
def test_last_on_two_ranks_goes_on_from_the_newest_whole_one(folder: Path, tmp_path: Path, strategy: str) -> None:
    every = ["--trainer.callbacks+", '{"class_path": "WholeCheckpoint", "init_args": {"every_n_train_steps": 2, "save_top_k": -1, "filename": "kept-{step}"}}']
    words = ["fit", *options(folder, tmp_path / "run"), "-c", f"configs/strategy/{strategy}.yaml", *every]
    lit_talr(*words, "--trainer.max_steps", "3")
    export = (tmp_path / "run" / "export" / "model.safetensors").read_bytes()
    for path in (tmp_path / "run" / "checkpoints").glob("*step=3.ckpt"):
        (file, position, bit), *_ = random_flips(path, 2)
        flip(file, position, bit)
    lit_talr(*words, "--trainer.max_steps", "3", "--ckpt_path", "last")
    assert (tmp_path / "run" / "config.resume-1.yaml").read_text().count("kept-step=2.ckpt") == 1
    assert (tmp_path / "run" / "export" / "model.safetensors").read_bytes() == export


def test_each_rank_hashes_the_files_that_it_wrote() -> None:
    names = {"__1_0.distcp": 1, "checkpoint/bf16_zero_pp_rank_12_mp_rank_00_optim_states.pt": 12, "checkpoint/zero_pp_rank_3_mp_rank_00_model_states.pt": 3}
    names |= dict.fromkeys([".metadata", "meta.pt", "latest", "zero_to_fp32.py", "checkpoint/mp_rank_00_model_states.pt"], 0)
    assert {name: writer_of(name) for name in names} == names


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[3:]:
        strategy, precision = case.split(":")
        trainer = {
            "strategy": STRATEGIES[strategy](),
            "devices": 2,
            "precision": precision,
            "enable_checkpointing": True,
            "callbacks": [HFExport(), WholeCheckpoint(every_n_train_steps=1, save_top_k=-1)],
            "default_root_dir": str(Path(sys.argv[2], case.replace(":", "_"))),
        }
        adam = partial(torch.optim.AdamW, lr=0.01)
        fit(Path(sys.argv[1]), TALR(scope="step"), steps=2, optimizer=adam, batching={"micro_batch_size": 2}, trainer=trainer)
    end_process()
