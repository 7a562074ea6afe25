"""The base model's NLL: exact, computed once, and read from a whole file of the same model and rows only."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import lit_talr.training.base_model
import lit_talr.utils.cache
from lit_talr.data.encoded import Batch
from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.losses import FLOW, TALR, LossStrategy, Rho1, Standard
from lit_talr.modeling.adapters import Adapter, LoRA
from lit_talr.module import DomainSFT
from tests.helpers.fits import QWEN3, fit, noisy_records, write_data
from tests.helpers.params import first_is_fast


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder to write into; ``.cache`` is written next to it."""
    write_data(tmp_path / "run")
    return tmp_path / "run"


def test_a_refused_run_caches_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a row that does not fit, nor an attention that would mix the examples of a packed row."""
    trainer = {"default_root_dir": str(own / "runs" / "one")}
    with (own / "val.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "?" * 300, "response": "!"}) + "\n")
    with pytest.raises(ValueError, match=r"val.jsonl: row 5: This val example has \d+ tokens, more than `data.batching.micro_batch_tokens`, 250; raise"):
        fit(own, FLOW(), batching={"micro_batch_tokens": 250}, trainer=trainer)
    monkeypatch.setattr("lit_talr.modeling.families.ISOLATING", ("eager",))
    with pytest.raises(ValueError, match="`data.batching.packing` needs an attention"):
        fit(own, FLOW(), batching={"micro_batch_tokens": 900, "packing": True}, trainer=trainer)
    assert not list((own / "runs").rglob("*.safetensors"))


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the examples of each forward of the base model."""
    counted: list[int] = []
    backbone = lit_talr.training.base_model.Backbone

    class Counted(backbone):  # type: ignore[misc, valid-type]
        def forward(self, input_ids: Tensor, labels: Tensor, *others: Any) -> Any:
            counted.append(int((labels != IGNORE_INDEX).any(1).sum()))  # without empty micro-batches
            return super().forward(input_ids, labels, *others)

    monkeypatch.setattr(lit_talr.training.base_model, "Backbone", Counted)
    yield counted


class Seen(DomainSFT):
    """Records each batch, its statistics and its weights."""

    batches: list[tuple[Batch, Any, Tensor]]

    def on_fit_start(self) -> None:
        self.batches = []
        Seen.last = self

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        output = super().training_step(batch, batch_idx)
        self.batches.append((batch, output["stats"], output["weights"]))
        return output

    last: "Seen"


def plain_loop(folder: Path, batch: Batch) -> list[list[float]]:
    """The NLL of each example's supervised tokens: one forward each, full logits, float32."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    found = []
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        width = len(labels) - int((labels.flip(0) != -100).int().argmax())  # without padding
        with torch.no_grad():
            logits = model(input_ids=ids[None, :width]).logits[0]
        nll = torch.nn.functional.cross_entropy(logits, labels[:width], ignore_index=-100, reduction="none")
        found.append(nll[labels[:width] != -100].tolist())
    return found


SINGLE: dict[str, Any] = {"precision": "32-true"}


@pytest.mark.parametrize("level", first_is_fast("token", "sample"))
def test_flow_weights_are_those_of_a_plain_loop_with_the_base_model(own: Path, level: Any) -> None:
    fit(own, FLOW(level=level), steps=6, module_class=Seen, batching={"micro_batch_size": 3}, trainer=SINGLE)  # two epochs
    nll = {index: row for batch, *_ in Seen.last.batches for index, row in zip(batch["ids"], plain_loop(own, batch), strict=False)}
    assert len(nll) == 20
    temperature = np.median([np.mean(row) for row in nll.values()] if level == "sample" else [value for row in nll.values() for value in row])
    assert Seen.last.loss.used_temperature == pytest.approx(temperature, rel=1e-5)  # type: ignore[union-attr]
    for batch, stats, weights in Seen.last.batches:
        for row, index in enumerate(batch["ids"]):
            expected = np.exp(-(np.mean(nll[index]) if level == "sample" else np.array(nll[index])) / temperature)
            torch.testing.assert_close(weights[row][stats.mask[row]].double(), torch.tensor(expected).expand(len(nll[index])), rtol=1e-4, atol=0)


def test_the_base_nll_is_the_models_own_before_the_first_step_and_stays(own: Path) -> None:
    fit(own, FLOW(), steps=6, module_class=Seen, trainer=SINGLE, optimizer=partial(torch.optim.SGD, lr=1.0))
    first, *_, last = [stats for _, stats, _ in Seen.last.batches if stats.mask.any()]
    torch.testing.assert_close(first.base_nll, first.nll, rtol=1e-5, atol=1e-6)
    assert (last.base_nll - last.nll).abs().max() > 0.1


@pytest.mark.parametrize("adapter", [None, LoRA(r=2, alpha=2)], ids=["full", "lora"])
def test_it_is_as_exact_as_training(own: Path, adapter: Adapter | None) -> None:
    """The frozen weights under LoRA are bf16, so those of the base model are too: before the first step no token has become more or less likely."""
    fit(own, FLOW(), steps=1, module_class=Seen, trainer={"precision": "bf16-mixed"}, adapter=adapter)
    for _, stats, _ in Seen.last.batches:
        torch.testing.assert_close(stats.base_nll, stats.nll, rtol=0, atol=1e-6)


def test_a_second_run_makes_no_forward_of_the_base_model(own: Path, forwards: list[int], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lit_talr"):
        fit(own, FLOW(), steps=1, trainer=SINGLE)
        assert sum(forwards) == 20
        assert "cached in" in caplog.text
        fit(own, Rho1(), steps=1, trainer={**SINGLE, "default_root_dir": str(own.parent / "other run")})
    assert sum(forwards) == 20
    assert "read from" in caplog.text


def change_weights(folder: Path) -> None:
    weights = load_file(folder / "model" / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})


def change_a_row(folder: Path) -> None:
    rows = (folder / "train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join([rows[0].replace("ba", "aa", 1), *rows[1:]]) + "\n")


@pytest.mark.parametrize("change", [change_weights, change_a_row])
def test_other_weights_or_rows_are_computed_anew(own: Path, forwards: list[int], change: Any) -> None:
    fit(own, FLOW(), steps=1, trainer=SINGLE)
    change(own)
    fit(own, FLOW(), steps=1, trainer=SINGLE)
    assert sum(forwards) == 40
    assert len(list((own.parent / ".cache").iterdir())) == 2


@pytest.mark.slow
def test_another_precision_is_computed_anew(own: Path, forwards: list[int]) -> None:
    fit(own, FLOW(), steps=1, trainer=SINGLE)
    fit(own, FLOW(), steps=1, trainer={"precision": "64-true"})
    fit(own, FLOW(), steps=1, trainer={"precision": "bf16-mixed"})
    assert sum(forwards) == 60


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_description(path: Path) -> None:
    save_file(load_file(path), path)


def other_name(path: Path) -> None:
    save_file({"loss": load_file(path)["nll"]}, path, metadata=about(path))


def about(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def foreign(path: Path) -> None:
    save_file(load_file(path), path, metadata={**about(path), "key": "0" * 64})


def rotten(path: Path) -> None:
    values = load_file(path)
    values["nll"][3] += 1
    save_file(values, path, metadata=about(path))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut_short, "is not whole"),
        pytest.param(empty, "is not whole", marks=pytest.mark.slow),
        pytest.param(other_name, "is not what was written", marks=pytest.mark.slow),
        pytest.param(without_description, "belongs to other content", marks=pytest.mark.slow),
        pytest.param(foreign, "belongs to other content", marks=pytest.mark.slow),
        (rotten, "is not what was written"),
    ],
)
def test_a_file_that_is_not_whole_or_not_ours_is_computed_again_and_logged(
    own: Path, forwards: list[int], caplog: pytest.LogCaptureFixture, harm: Any, words: str
) -> None:
    weights = fit(own, FLOW(), steps=2, trainer=SINGLE)
    (cached,) = (own.parent / ".cache").iterdir()
    key = about(cached)["key"]
    harm(cached)
    with caplog.at_level("INFO", logger="lit_talr"):
        again = fit(own, FLOW(), steps=2, trainer=SINGLE)
    assert sum(forwards) == 40
    assert [record.message for record in caplog.records if "computed again" in record.message] == [f"base-nll: {cached} {words}; it is computed again."]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert about(cached)["key"] == key and load_file(cached)["nll"].shape == (304,)


def full_disk(path: Path, content: bytes) -> None:
    raise OSError("No space left on device")


@pytest.mark.parametrize("obstacle", first_is_fast("full disk", "a folder of that name"))
def test_a_full_disk_is_logged_and_the_run_goes_on(
    own: Path, forwards: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    weights = fit(own, FLOW(), steps=2, trainer=SINGLE)
    (cached,) = (own.parent / ".cache").iterdir()
    cached.unlink()
    if obstacle == "full disk":
        monkeypatch.setattr(lit_talr.utils.cache, "write_bytes", full_disk)
    else:
        cached.mkdir()
    again = fit(own, FLOW(), steps=2, trainer=SINGLE)
    assert "base-nll could not be cached (" in caplog.text and "this run goes on" in caplog.text
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert sum(forwards) == 40 and [path for path in (own.parent / ".cache").iterdir() if path.is_file()] == []


@pytest.mark.parametrize("loss", first_is_fast(FLOW, Rho1, partial(Rho1, scope="sequence")))
@pytest.mark.parametrize("forget", [False, True])
def test_resumed_is_bitwise_uninterrupted(own: Path, loss: type[LossStrategy], forget: bool) -> None:
    """Inside an epoch of three steps of two micro-batches; the NLL is the base's, cached or computed again, not that of the tuned weights."""
    options: dict[str, Any] = {"batching": {"micro_batch_size": 4}, "optimizer": partial(torch.optim.AdamW, lr=0.01)}
    whole = fit(own, loss(), steps=8, trainer=SINGLE, **options)
    keep = ModelCheckpoint(dirpath=own / "kept", every_n_train_steps=4, save_top_k=-1)
    fit(own, loss(), steps=5, trainer={**SINGLE, "enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = (own / "kept").glob("*.ckpt")
    if forget:
        shutil.rmtree(own.parent / ".cache")
    resumed = fit(own, loss(), steps=8, ckpt_path=str(checkpoint), trainer=SINGLE, **options)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_resumed_run_must_start_from_the_same_model(own: Path) -> None:
    keep = ModelCheckpoint(dirpath=own / "kept", every_n_train_steps=1, save_top_k=-1)
    fit(own, FLOW(), steps=1, trainer={**SINGLE, "enable_checkpointing": True, "callbacks": [keep]})
    (checkpoint,) = (own / "kept").glob("*.ckpt")
    change_weights(own)
    with pytest.raises(ValueError, match="its base NLL .hash of base weights, rows, precision and attention. is "):
        fit(own, FLOW(), steps=2, ckpt_path=str(checkpoint), trainer=SINGLE)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (Standard(), FLOW(), "its model.loss is Standard, here FLOW"),
        (FLOW(), Standard(), "its model.loss is FLOW, here Standard"),
        (FLOW(), FLOW(level="token"), "its model.loss.level is sample, here token"),
        (TALR(), TALR(floor=0.5), "its model.loss.floor is 0.01, here 0.5"),
    ],
)
def test_a_resumed_run_must_have_the_same_loss_and_options(own: Path, first: LossStrategy, second: LossStrategy, message: str) -> None:
    keep = ModelCheckpoint(dirpath=own / "kept", every_n_train_steps=1, save_top_k=-1)
    fit(own, first, steps=1, trainer={**SINGLE, "enable_checkpointing": True, "callbacks": [keep]})
    (checkpoint,) = (own / "kept").glob("*.ckpt")
    with pytest.raises(ValueError, match=message):
        fit(own, second, steps=2, ckpt_path=str(checkpoint), trainer=SINGLE)


def test_random_weights_are_refused(own: Path) -> None:
    with pytest.raises(ValueError, match="FLOW compares with the base model, and random weights say nothing"):
        fit(own, FLOW(), architecture=QWEN3)
    fit(own, Standard(), steps=1, architecture=QWEN3)


def test_rows_that_are_set_aside_have_no_part_in_it(own: Path) -> None:
    class Seen(FLOW):
        def prepare(self, base_nll: np.ndarray, num_tokens: np.ndarray) -> None:
            super().prepare(base_nll, num_tokens)
            self.num_tokens = num_tokens.tolist()

    loss, data = Seen(), noisy_records(own)
    data.trainer = SimpleNamespace(is_global_zero=False)
    data.encode("train")
    fit(own, loss, steps=1, data=noisy_records)
    assert loss.num_tokens == data.encoded["train"].num_supervised.tolist() and len(loss.num_tokens) < 20
