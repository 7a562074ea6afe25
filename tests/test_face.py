"""The library from Python: what a person imports, and a run without the command line or a callback of ours."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

import lit_talr
import lit_talr.domains
import lit_talr.losses
from lit_talr import TALR, DomainSFT, LossStrategy, Records, Standard, TokenStats
from lit_talr.data.batch_plan import MicroBatch

SMALL: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
SMALL |= {"enable_model_summary": False}


def records(folder: Path) -> Records:
    return Records(str(folder / "tokenizer"), **{split: str(folder / f"{split}.jsonl") for split in ("train", "val", "test")})


def test_every_name_of_the_face_is_there_and_only_imported_on_use() -> None:
    for name in lit_talr.__all__:
        assert getattr(lit_talr, name).__name__ == name
    assert set(lit_talr.__all__) <= set(dir(lit_talr))
    assert {*lit_talr.losses.__all__, *lit_talr.domains.__all__} <= set(lit_talr.__all__)
    code = "import lit_talr, sys; print([name for name in ('torch', 'lightning', 'transformers', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="module 'lit_talr' has no attribute 'Nope'"):
        lit_talr.Nope  # noqa: B018


@pytest.mark.slow
def test_type_checkers_see_the_face(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from lit_talr import LoRA, Records, talr_weights\nreveal_type(talr_weights)\nreveal_type(Records)\nreveal_type(LoRA)\n")
    root = Path(__file__).parents[1]  # whose cache of types is filled by `make check`
    done = subprocess.run([sys.executable, "-m", "mypy", str(script)], capture_output=True, text=True, cwd=root)
    assert "nll: torch" in done.stdout and "Records" in done.stdout and "LoRA" in done.stdout and "error" not in done.stdout, done.stdout


@pytest.mark.slow
def test_fit_and_test_need_no_callback_of_ours(folder: Path, tmp_path: Path) -> None:
    module, data = DomainSFT(pretrained=str(folder / "model"), tokenizer=str(folder / "tokenizer"), loss=TALR()), records(folder)
    trainer = Trainer(max_epochs=2, default_root_dir=str(tmp_path / "run"), **SMALL)
    trainer.fit(module, data)
    assert trainer.global_step == 4  # 20 rows, 16 a step
    optimizer = trainer.optimizers[0]
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["lr"] == 1e-6 and optimizer.defaults["weight_decay"] == 0
    assert module.schedule.warmup_ratio == 0.03
    (scores,) = trainer.test(module, data, verbose=False)
    assert scores.keys() == {"test/score"} and 0 <= scores["test/score"] <= 1


def test_the_defaults_are_those_of_base_yaml() -> None:
    import yaml

    model = yaml.safe_load((Path(__file__).parents[1] / "configs" / "base.yaml").read_text())["model"]
    module = DomainSFT(Standard())
    options = module.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert {name: options[name] for name in model["optimizer"]["init_args"]} == model["optimizer"]["init_args"]
    assert vars(module.schedule) == {"warmup_steps": 0, **model["schedule"]["init_args"]}
    assert module.generation.max_new_tokens == model["generation"]["max_new_tokens"]


def test_a_plain_data_loader_is_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    module = DomainSFT(pretrained=str(folder / "model"), loss=TALR())
    with pytest.raises(ValueError, match=r"DomainSFT needs a DomainDataModule, such as Records.*give `datamodule=Records\(...\)` in place of a data loader"):
        Trainer(max_epochs=1, default_root_dir=str(tmp_path), **SMALL).fit(module, DataLoader([1, 2]))


def test_forward_without_a_trainer_says_what_to_do_and_afterwards_works(folder: Path, tmp_path: Path) -> None:
    module, data = DomainSFT(pretrained=str(folder / "model"), loss=TALR()), records(folder)
    with pytest.raises(ValueError, match=r"The model is built when a trainer starts: call `Trainer.fit`, `validate` or `test` first"):
        module({})  # type: ignore[typeddict-item]
    Trainer(default_root_dir=str(tmp_path), **SMALL).validate(module, data, verbose=False)
    assert module(data.encoded["val"][MicroBatch((0, 1), 1)]).nll.shape[0] == 2


def test_load_from_checkpoint_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="Checkpoints keep no options, so `load_from_checkpoint` cannot build the module. Resume with"):
        DomainSFT.load_from_checkpoint("last.ckpt", loss=TALR())


class OfExamples(LossStrategy):
    """``w = 1`` for each example: the wrong shape, which broadcasts where B = T."""

    def weights(self, stats: TokenStats) -> Any:
        return torch.ones(len(stats.nll))


class Number(LossStrategy):
    """``w = 1`` for all."""

    def weights(self, stats: TokenStats) -> Any:
        return 1.0


@pytest.mark.parametrize(("loss", "returned"), [(OfExamples(), r"\[\d+\]"), (Number(), "float")])
def test_weights_of_another_shape_are_refused_by_the_strategys_name(folder: Path, tmp_path: Path, loss: LossStrategy, returned: str) -> None:
    module = DomainSFT(pretrained=str(folder / "model"), loss=loss)
    trainer = Trainer(max_epochs=1, default_root_dir=str(tmp_path), num_sanity_val_steps=0, **SMALL)
    with pytest.raises(ValueError, match=rf"{type(loss).__name__}.weights returned {returned}; it must return one weight for each token, \[B, T\] = \["):
        trainer.fit(module, records(folder))
