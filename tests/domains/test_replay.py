from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer

from lit_talr.cli.command_line import main
from lit_talr.data.batch_plan import MicroBatch
from lit_talr.domains import Replay
from lit_talr.lab import Clinic, Skills
from tests.helpers.scores import read_values

TOKENIZER = "lit_talr/lab/base"
CLINIC: Any = partial(Clinic, train_size=40, val_size=6, test_size=6)
SKILLS: Any = partial(Skills, train_size=100)


def ready(data: Any, max_epochs: int = 2) -> Any:
    data.trainer = Trainer(accelerator="cpu", max_epochs=max_epochs, logger=False)
    data.setup("fit")
    return data


def test_an_epoch_has_the_domain_and_a_share_of_general_tokens() -> None:
    data, alone = ready(Replay(TOKENIZER, domain=CLINIC, general=SKILLS, share=0.25)), ready(CLINIC(TOKENIZER))
    plan, own = data.train_plan, alone.encoded["train"]
    ids = plan.order(0)
    tokens, total = plan.num_supervised[ids], plan.num_supervised[ids].sum()
    assert tokens[ids < 40].sum() == own.num_supervised.sum() and total > own.num_supervised.sum()
    assert tokens[ids >= 40].sum() / total == pytest.approx(0.25, abs=0.02)
    assert data.source_name == alone.source_name and [type(source) for source in data.sources] == [Clinic, Skills]


def test_batches_are_the_rows_of_either_module() -> None:
    data, domain, general = ready(Replay(TOKENIZER, domain=CLINIC, general=SKILLS)), ready(CLINIC(TOKENIZER)), ready(SKILLS(TOKENIZER))
    for source, index, here in ((domain, 3, 3), (general, 5, 45), (general, 99, 139)):
        expected, batch = source.encoded["train"][MicroBatch((index,), 1)], data.encoded["train"][MicroBatch((here,), 1)]
        assert batch["input_ids"].tolist() == expected["input_ids"].tolist() and batch["labels"].tolist() == expected["labels"].tolist()
        assert data.kept["train"][here].messages == source.kept["train"][index].messages


def test_validation_and_test_are_the_domains() -> None:
    data, domain = Replay(TOKENIZER, domain=CLINIC, general=SKILLS), CLINIC(TOKENIZER)
    for split in ("val", "test"):
        assert [row.messages for row in data.examples(split)] == [row.messages for row in domain.examples(split)]
    assert type(data.metric()) is type(domain.metric())


def test_one_inside_another_is_refused() -> None:
    with pytest.raises(ValueError, match="A `Replay` inside a `Replay` is not supported; put all general rows into one file"):
        Replay(TOKENIZER, domain=lambda tokenizer, *_: Replay(tokenizer, domain=CLINIC, general=SKILLS), general=SKILLS)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="`share` must lie between 0 and 1, got"):
        Replay(TOKENIZER, domain=CLINIC, general=SKILLS, share=share)


def test_rows_of_the_domain_are_set_aside_and_general_rows_are_not() -> None:
    data, alone = ready(Replay(TOKENIZER, domain=CLINIC, general=SKILLS, held_out=0.3)), ready(CLINIC(TOKENIZER, held_out=0.3))
    assert [row.messages for row in data.kept["held_out"]] == [row.messages for row in alone.kept["held_out"]]
    assert data.mixture.num_own == len(alone.encoded["train"]) < 40 and len(data.encoded["train"]) == data.mixture.num_own + 100


def test_rows_are_set_aside_in_one_place_only() -> None:
    for name in ("domain", "general"):
        parts = {"domain": CLINIC, "general": SKILLS}
        parts[name] = partial(parts[name], held_out=0.3)
        with pytest.raises(ValueError, match=f"`data.{name}` takes no `held_out`, got 0.3; give `data.held_out`"):
            Replay(TOKENIZER, **parts)


def test_general_rows_that_are_set_aside_in_the_domain_are_refused() -> None:
    number = len(ready(CLINIC(TOKENIZER, held_out=0.3)).kept["held_out"])
    with pytest.raises(ValueError, match=f"`data.held_out` sets aside rows that {number} of the general rows repeat, .*; remove them from `data.general`"):
        ready(Replay(TOKENIZER, domain=CLINIC, general=CLINIC, held_out=0.3))


@pytest.mark.slow
def test_a_run_from_the_command_line_resumes_with_the_same_share_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-c", "configs/experiment/lab_clinic.yaml", "-c", "configs/data/clinic_replay.yaml", "--run", str(tmp_path / "run")]
    words += ["--trainer.callbacks", "[TokenProgressBar, Summary, HFExport, WholeCheckpoint]", "--data.domain.init_args.train_size", "16"]
    words += ["--data.domain.init_args.val_size", "4", "--data.general.init_args.train_size", "64"]
    main(["fit", *words, "--trainer.max_epochs", "1"])
    assert "Clinic (made by code) and Skills: Skills (made by code)" in " ".join(capsys.readouterr().out.split())
    assert read_values(tmp_path / "run", "fit")["val/nll"] > 0
    card = (tmp_path / "run" / "export" / "README.md").read_text()
    assert "| data | Clinic (made by code) (Clinic)" in card and "| data | Skills (made by code) (Skills)" in card
    share = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["init_args"]["share"]
    with pytest.raises(SystemExit):
        main(["fit", *words, "--trainer.max_epochs", "2", "--ckpt_path", "last", "--data.share", str(share + 0.01)])
    assert "data.share" in capsys.readouterr().err
