"""A checkpoint in which one bit has changed is not used: by no command, and not from Python either."""

import shutil
import threading
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file

from lit_talr.callbacks import WholeCheckpoint
from lit_talr.checkpoint.best import hold_best
from lit_talr.checkpoint.find import hold, hold_last, last_checkpoint, why_not_whole
from lit_talr.checkpoint.merge import merge
from lit_talr.checkpoint.whole import remove
from lit_talr.cli.command_line import main
from lit_talr.losses import Standard
from lit_talr.modeling.loading import load_model
from lit_talr.utils.manifest import MANIFEST
from lit_talr.utils.weight_files import model_folder
from tests.helpers.damage import flip, flipped, random_flips
from tests.helpers.fits import fit, write_data


def fit_words(folder: Path) -> list[str]:
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    return [
        *("-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/talr-step.yaml", *files, "--run", str(folder / "run")),
        *("--model.pretrained", str(folder / "model"), "--model.tokenizer", str(folder / "tokenizer"), "--model.optimizer.lr", "1e-2"),
        *("--data.batching.batch_size", "4", "--data.batching.micro_batch_size", "2", "--model.generation.max_new_tokens", "4"),
        *("--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder)
    main(["fit", *fit_words(folder), "--trainer.max_epochs", "1"])
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "here"))


def newest(folder: Path) -> Path:
    (path,) = (folder / "run" / "checkpoints").glob("last-*.ckpt")
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(words)
    error = capsys.readouterr().err
    assert stop.value.code == 1 and error.count("\n") == 1 and "Traceback" not in error, error
    return error


def test_two_hundred_flips_of_a_file_are_all_found(here: Path) -> None:
    path = newest(here)
    assert last_checkpoint(here / "run") == path
    for file, position, bit in random_flips(path, 200):
        with flipped(file, position, bit):
            assert why_not_whole(path) is not None, (position, bit)
    assert why_not_whole(path) is None


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_resume_test_and_export_refuse_a_flipped_bit(here: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    path = newest(here)
    ((_, position, bit),) = random_flips(path, 1, seed)
    flip(path, position, bit)
    fault = f"{path.name} is not a whole checkpoint: it is damaged: its bytes are not those that were written; give "
    assert fault in refused(capsys, "fit", *fit_words(here), "--trainer.max_epochs", "2", "--ckpt_path", str(path))
    assert fault in refused(capsys, "test", "-c", str(here / "run" / "config.yaml"), "--run", str(here / "run"), "--ckpt_path", str(path))
    assert fault in refused(capsys, "export", "--ckpt", str(path), "--out", str(here / "out"))
    assert not (here / "out").exists()


def test_last_and_export_take_the_newest_whole_one_and_name_the_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = newest(here)
    flip(path, path.stat().st_size // 2, 0)
    (best,) = (here / "run" / "checkpoints").glob("best-*.ckpt")
    main(["export", "--ckpt", str(here / "run"), "--out", str(here / "out")])
    said = capsys.readouterr()
    assert best.name in said.out and f"{path.name} is damaged" in said.err and "the newest whole checkpoint" in said.err
    flip(path, path.stat().st_size // 2, 0)
    main(["export", "--ckpt", str(here / "run"), "--out", str(here / "whole")])
    assert path.name in capsys.readouterr().out


def test_python_refuses_it_too_before_it_is_loaded(folder: Path, tmp_path: Path) -> None:
    options = {"callbacks": [WholeCheckpoint()], "enable_checkpointing": True, "default_root_dir": str(tmp_path)}
    fit(folder, Standard(), steps=1, trainer=options)
    (path,) = (tmp_path / "checkpoints").iterdir()
    resumed = fit(folder, Standard(), steps=2, ckpt_path=str(path))
    assert all(torch.equal(resumed[name], value) for name, value in fit(folder, Standard(), steps=2).items())
    flip(path, 2, 0)  # of the first header, at which torch would fail
    with pytest.raises(ValueError, match="`ckpt_path`: .* is damaged: its bytes are not those that were written"):
        fit(folder, Standard(), steps=2, ckpt_path=str(path))


def test_a_changed_export_is_refused_wherever_a_model_is_loaded(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export, base = here / "run" / "export", str(here / "model")
    load_model(str(export), None, None, 0, None)
    for file, position, bit in random_flips(export, 50):
        if file.name != "README.md":
            with flipped(file, position, bit), pytest.raises(ValueError, match="export is not what was written: it has"):
                model_folder(str(export))
    model_folder(str(export))
    flip(export / "model.safetensors", 5000, 4)
    sentence = f"export is not what was written: it has another model.safetensors than was written; copy or write it again, or delete its {MANIFEST}"
    with pytest.raises(ValueError, match=sentence):
        load_model(str(export), None, None, 0, None)
    with pytest.raises(ValueError, match=sentence):
        merge(here / "merged", str(export), base)
    options = ["--model.pretrained", str(export), "--run", str(here / "other")]
    assert sentence in refused(capsys, "test", "-c", str(here / "run" / "config.yaml"), *options)
    (export / MANIFEST).unlink()
    load_model(str(export), None, None, 0, None)


def test_a_merge_has_a_manifest_of_its_own(here: Path) -> None:
    merge(here / "merged", str(here / "run" / "export"), str(here / "model"))
    load_model(str(here / "merged"), None, None, 0, None)
    shutil.copy(here / "run" / "export" / "model.safetensors", here / "merged")
    with pytest.raises(ValueError, match="merged is not what was written: it has another model.safetensors"):
        load_model(str(here / "merged"), None, None, 0, None)


def test_weights_that_the_manifest_does_not_list_are_not_read(here: Path) -> None:
    """Transformers takes ``model.safetensors`` where a folder has that and an index."""
    export = here / "run" / "export"
    (export / "notes.txt").write_text("mine")
    load_model(str(export), None, None, 0, None)
    shutil.copy(here / "model" / "model.safetensors", export / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match="has model-00001-of-00002.safetensors, which its manifest does not list"):
        load_model(str(export), None, None, 0, None)


def test_an_export_after_test_has_another_card_and_is_whole(here: Path) -> None:
    run = here / "run"
    before = (run / "export" / "README.md").read_text()
    main(["test", "-c", str(run / "config.yaml"), "--run", str(run), "--ckpt_path", "last"])
    assert (run / "export" / "README.md").read_text() != before
    load_model(str(run / "export"), None, None, 0, None)
    assert load_file(run / "export" / "model.safetensors")


def test_a_damaged_skeleton_is_not_exported(here: Path) -> None:
    config = here / "run" / "skeleton" / "config.json"
    config.write_text(config.read_text().replace("16", "17"))
    with pytest.raises(SystemExit):
        main(["export", "--ckpt", str(here / "run"), "--out", str(here / "out")])
    assert not (here / "out").exists()


class Reader(Callback):
    """Holds the newest checkpoint from the end of the first epoch until the third, as a test of a run that is training does."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_train_epoch_start(self, trainer: Trainer, *_: object) -> None:
        folder = Path(trainer.default_root_dir)
        if trainer.current_epoch == 1:
            _, self.lock = hold_last(folder)
        if trainer.current_epoch:
            self.seen.append(sorted(path.name for path in (folder / "checkpoints").iterdir()))
        if trainer.current_epoch == 2:
            self.lock.close()


def test_a_fit_deletes_no_checkpoint_that_another_command_reads(folder: Path, tmp_path: Path) -> None:
    reader = Reader()
    fit(folder, Standard(), steps=12, trainer={"callbacks": [WholeCheckpoint(), reader], "enable_checkpointing": True, "default_root_dir": str(tmp_path)})
    assert reader.seen == [["last-step=3.ckpt"], ["last-step=3.ckpt", "last-step=6.ckpt"], ["last-step=9.ckpt"]]


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_is_read_is_deleted_later(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "a.ckpt"
    (path / "part").mkdir(parents=True) if is_folder else path.write_text("")
    with hold(path):
        assert not remove(path) and path.exists()
    assert remove(path) and not path.exists() and remove(path)
    with pytest.raises(FileNotFoundError):
        hold(path)


def test_the_last_is_found_while_it_is_replaced(here: Path) -> None:
    """What is found is there, however often a run replaces it meanwhile."""
    first = newest(here)
    content = first.read_bytes()

    def replace() -> None:
        for step in range(100, 140):
            new, part = (first.with_name(name) for name in (f"last-step={step}.ckpt", f".{step}.part"))
            part.write_bytes(content)
            part.rename(new)
            for path in first.parent.glob("last-*.ckpt"):
                if path != new:
                    remove(path)

    thread = threading.Thread(target=replace)
    thread.start()
    found = 0
    while thread.is_alive():
        path, lock = hold_last(here / "run")
        with lock:
            assert path.exists() and why_not_whole(path) is None
        found += 1
    assert found and last_checkpoint(here / "run").name == "last-step=139.ckpt"


def test_the_best_is_held_while_it_is_read_and_one_that_is_gone_is_named(here: Path) -> None:
    path, lock = hold_best(here / "run")
    with lock:
        assert path.name.startswith("best-") and not remove(path)
    assert remove(path)
    with pytest.raises(ValueError, match=r"`ckpt_path: best`: .*best-.*ckpt does not exist; ask for `last`, or give the path of a checkpoint"):
        hold_best(here / "run")
