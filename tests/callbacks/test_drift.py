"""Drift: right, zero before training, free of side effects, sampled once."""

import gzip
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import lit_talr.training.base_text
from lit_talr.callbacks import Drift, HFExport, WholeCheckpoint
from lit_talr.callbacks.drift import corpus_name, pad_blocks, read_text
from lit_talr.checkpoint.merge import merge
from lit_talr.cli.command_line import main
from lit_talr.losses import Standard
from lit_talr.modeling.adapters import LoRA
from lit_talr.modeling.generation import Generation
from lit_talr.modeling.loading import load_model, new_config
from lit_talr.modeling.strategies import FSDP2Strategy
from lit_talr.module import DomainSFT
from lit_talr.theory.code_length import bits_per_byte, code_length, text_blocks
from lit_talr.theory.drift import drift as drift_of_models
from lit_talr.utils.cache import ContentCache
from lit_talr.utils.files import read_json_lines
from tests.helpers.fits import QWEN3, fit, records, write_data
from tests.helpers.models import ARCHITECTURES
from tests.helpers.params import first_is_fast
from tests.helpers.scores import read_values

ADAM = partial(torch.optim.AdamW, lr=0.01)
LAB = Path(__file__).parents[2] / "lit_talr" / "lab" / "base"
EOS = 258  # of the tokenizer, which has no BOS
Row = dict[str, float]


def small(**options: Any) -> Drift:
    return Drift(**{"num_sequences": 6, "length": 12, **options})


def run(folder: Path, callback: Drift, name: str = "run", steps: int = 4, trainer: dict[str, Any] | None = None, **options: Any) -> dict[str, Tensor]:
    settings = {"callbacks": [callback], "default_root_dir": str(folder / name), **(trainer or {})}
    return fit(folder, Standard(), steps=steps, trainer=settings, optimizer=ADAM, **options)


def rows(folder: Path, name: str = "run") -> list[Row]:
    return read_json_lines(folder / name / "drift.jsonl")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "words.txt"
    file.write_text("Grüße, and a text of some length for nobody to read. " * 2, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drift")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def watched(own: Path, corpus: Path) -> dict[str, Tensor]:
    """A run of four steps, three an epoch, in float64."""
    return run(own, small(corpora=[str(corpus)]))


def model_of(weights: dict[str, Tensor]) -> Any:
    model = AutoModelForCausalLM.from_config(new_config(QWEN3, 259)).double().eval()
    model.load_state_dict(weights, strict=False)
    return model


def test_the_numbers_are_those_of_the_naive_formula(own: Path, corpus: Path, watched: dict[str, Tensor]) -> None:
    """The same text again, sampled by the same seed, and the logits of both models."""
    first, second = AutoModelForCausalLM.from_pretrained(own / "model", dtype=torch.float64).eval(), model_of(watched)
    expected = drift_of_models(first, second, start=EOS, num_sequences=6, num_tokens=12, seed=0)
    *_, last = rows(own)
    assert last["kl"] == pytest.approx(expected.kl, abs=1e-6, rel=1e-6) and last["kl"] > 1e-3
    assert last["kl_se"] == pytest.approx(expected.kl_error, rel=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(own / "tokenizer")
    text = corpus.read_text(encoding="utf-8")
    before, after = (bits_per_byte(model, tokenizer, text, context=12) for model in (first, second))
    assert last["bits_per_byte/words"] == pytest.approx(after, rel=1e-6)
    assert last["bits_per_byte_rise/words"] == pytest.approx(after - before, rel=1e-6)
    lengths = [code_length(model, text_blocks(tokenizer, text, 12).blocks) for model in (first, second)]
    before, after = (float(part.nats.sum() / part.num_tokens.sum()) for part in lengths)
    assert last["nll/words"] == pytest.approx(after, rel=1e-6) and last["nll_rise/words"] == pytest.approx(after - before, rel=1e-6)
    (cached,) = (own.parent / own.name / ".cache").glob("base-text-*.safetensors")
    tokens = load_file(cached)["tokens"]
    assert tokens.shape == (6, 13) and set(tokens[:, 0].tolist()) == {EOS}
    with torch.no_grad():
        best = [model(input_ids=tokens[:, :-1]).logits.argmax(-1) for model in (first, second)]
    assert last["agreement"] == pytest.approx(float((best[0] == best[1]).double().mean()))


def test_it_is_zero_before_training_and_measured_after_each_epoch_and_at_the_end(own: Path, watched: Any) -> None:
    found = rows(own)
    assert [(row["epoch"], row["step"]) for row in found] == [(0, 0), (1, 3), (pytest.approx(4 / 3), 4)]
    assert found[0]["kl"] == 0 and found[0]["agreement"] == 1 and found[0]["bits_per_byte_rise/words"] == 0
    assert 0 < found[1]["kl"] < found[2]["kl"] and found[1]["agreement"] <= 1


@pytest.mark.parametrize("name", first_is_fast("lora", "padded in bf16", "untied", "softcap", "vision"))
def test_every_kind_of_model_is_no_distance_from_itself(tmp_path: Path, name: str) -> None:
    """Adapters beside bf16 weights, autocast, an untied head, more rows than the tokenizer has tokens, a soft-cap, a text model inside another."""
    architecture = ARCHITECTURES[{"untied": "llama", "softcap": "gemma2", "vision": "gemma3"}.get(name, "qwen3")]
    write_data(tmp_path)
    torch.manual_seed(0)
    load_model(None, None, architecture, 300 if "padded" in name else 259, None).save_pretrained(tmp_path / "model")
    adapter, precision = (LoRA(r=2, alpha=2) if name == "lora" else None), ("bf16-mixed" if name in ("padded in bf16", "lora") else "32-true")
    run(tmp_path, small(), steps=1, adapter=adapter, trainer={"precision": precision})
    first, last = rows(tmp_path)
    assert first["kl"] == 0 and first["agreement"] == 1
    assert adapter is not None or last["kl"] > 1e-7  # adapters hardly move in their first step


def test_training_is_bitwise_the_same_with_and_without(own: Path, watched: dict[str, Tensor]) -> None:
    without = fit(own, Standard(), steps=4, optimizer=ADAM)
    assert all(torch.equal(watched[name], without[name]) for name in without)


@pytest.mark.slow
def test_training_with_drawn_weights_and_dropout_is_too(own: Path) -> None:
    options: dict[str, Any] = {"adapter": LoRA(r=2, alpha=2, dropout=0.5), "steps": 2}
    with_drift = run(own, small(every_n_steps=1, seed=5), "adapters", **options)
    without = fit(own, Standard(), optimizer=ADAM, **options)
    assert all(torch.equal(with_drift[name], without[name]) for name in without)


def test_the_text_is_sampled_once_for_each_model_and_setting(own: Path, watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled: list[int] = []
    sample_text = lit_talr.training.base_text.sample_text

    def counted(*arguments: Any) -> Any:
        sampled.append(1)
        return sample_text(*arguments)

    monkeypatch.setattr(lit_talr.training.base_text, "sample_text", counted)
    run(own, small(), "second", steps=1)
    assert not sampled, "another run of the same model reads it"
    run(own, small(seed=1), "third", steps=1)
    assert len(sampled) == 1
    newest = max((own / ".cache").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    other = ContentCache(own / "run", "base-text", "something else")
    other.path.write_bytes(newest.read_bytes())
    assert other.read() is None, "belongs to another key"
    other.path.unlink()
    newest.write_bytes(newest.read_bytes()[:-8] + bytes(8))
    run(own, small(seed=1), "fourth", steps=1)
    assert len(sampled) == 2, "a damaged file is sampled again"


def test_where_it_cannot_be_cached_the_run_goes_on(own: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lit_talr.utils.cache.write_bytes", full)
    run(own, small(seed=2), "uncached", steps=1)
    assert "base-text could not be cached (No space left on device)" in caplog.text and len(rows(own, "uncached")) == 2


@pytest.mark.slow
def test_a_resumed_run_measures_what_an_uninterrupted_one_does(own: Path, corpus: Path, watched: dict[str, Tensor]) -> None:
    """From a checkpoint inside the first epoch, and from one of its last step, which was written before the epoch's measurement."""
    keep = ModelCheckpoint(dirpath=own / "kept", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    run(own, small(corpora=[str(corpus)]), "first", steps=3, trainer={"callbacks": [keep, small(corpora=[str(corpus)])], "enable_checkpointing": True})
    for step in (2, 3):
        resumed = run(own, small(corpora=[str(corpus)]), f"resumed-{step}", ckpt_path=str(own / "kept" / f"step={step}.ckpt"))
        assert rows(own, f"resumed-{step}") == rows(own)
        assert all(torch.equal(resumed[name], watched[name]) for name in watched)
    with pytest.raises(ValueError, match="its Drift.length is 12, here 13"):
        run(own, small(corpora=[str(corpus)], length=13), "other", ckpt_path=str(own / "kept" / "step=2.ckpt"))


@pytest.mark.slow
def test_intervals_in_steps_and_epochs(own: Path) -> None:
    run(own, small(every_n_epochs=2, every_n_steps=4), "both", steps=7)
    assert [row["step"] for row in rows(own, "both")] == [0, 4, 6, 7]
    run(own, small(every_n_epochs=99), "ends", steps=1)
    assert [row["step"] for row in rows(own, "ends")] == [0, 1]
    run(own, small(every_n_epochs=None), "neither", steps=1)
    assert not (own / "neither" / "drift.jsonl").exists()


def test_the_checkpoint_of_a_run_that_measures_nothing_can_be_tested(own: Path, corpus: Path) -> None:
    drift = partial(small, every_n_epochs=None, corpora=[str(corpus)])
    trained = {"callbacks": [drift(), WholeCheckpoint()], "enable_checkpointing": True, "default_root_dir": str(own / "later")}
    fit(own, Standard(), steps=1, trainer=trained, optimizer=ADAM)
    (checkpoint,) = (own / "later" / "checkpoints").glob("*.ckpt")
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[drift()], default_root_dir=str(own), precision="64-true")
    module = DomainSFT(Standard(), pretrained=str(own / "model"), optimizer=ADAM, generation=Generation(max_new_tokens=1))
    trainer.test(module, records(own), ckpt_path=str(checkpoint), weights_only=True, verbose=False)
    assert trainer.callback_metrics["drift/kl"] > 0


def test_a_run_that_something_else_ends_is_measured_there(own: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trainer.should_stop = trainer.global_step == 4

    drift = small(every_n_epochs=5)
    run(own, drift, "stopped", steps=12, trainer={"callbacks": [drift, Stop()]})
    assert [row["step"] for row in rows(own, "stopped")] == [0, 4]


class Board:
    """A logger, as far as a callback sees one."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.seen.append((step, metrics))


def test_loggers_and_callbacks_see_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, seen = Board(), {}

    class Last(Drift):
        def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
            seen.update({name: float(value) for name, value in trainer.callback_metrics.items()})

    watch = Drift.watch

    def with_board(self: Drift, trainer: Trainer, module: Any) -> None:
        trainer._loggers = [board]  # type: ignore[list-item]
        watch(self, trainer, module)
        trainer._loggers = []

    monkeypatch.setattr(Drift, "watch", with_board)
    run(own, Last(num_sequences=6, length=12), "logged", steps=3)
    assert [step for step, _ in board.seen] == [0, 2]
    assert {"drift/kl", "drift/kl_se", "drift/agreement"} <= seen.keys() and seen["drift/kl"] == pytest.approx(rows(own, "logged")[-1]["kl"])


@pytest.mark.parametrize(("num_bytes", "text"), [(3, "ab"), (4, "abü"), (5, "abüc"), (6, "abüc"), (7, "abüc"), (8, "abüc€"), (99, "abüc€")])
def test_a_text_is_cut_between_characters(tmp_path: Path, num_bytes: int, text: str) -> None:
    (tmp_path / "text").write_text("abüc€", encoding="utf-8")
    assert read_text(tmp_path / "text", num_bytes) == text


def test_a_packed_text_is_the_text(tmp_path: Path) -> None:
    (tmp_path / "words.txt.gz").write_bytes(gzip.compress("Grüße".encode()))
    assert read_text(tmp_path / "words.txt.gz", 4) == "Grü" and corpus_name("a/words.txt.gz") == corpus_name("words.txt") == "words"


def test_a_test_measures_the_weights_that_it_is_given(own: Path, corpus: Path, tmp_path: Path) -> None:
    """The trained ones as the run's end did; half-way back to the base model less; and the base model not at all."""
    run(own, small(corpora=[str(corpus)]), "tested", trainer={"callbacks": [small(corpora=[str(corpus)]), HFExport()]})
    export, at_end = own / "tested" / "export", rows(own, "tested")[-1]
    merge(tmp_path / "half", tuned=str(export), base=str(own / "model"))
    names = ("drift/kl", "drift/kl_se", "drift/agreement", "drift/bits_per_byte/words")
    measured = []
    for weights in (export, tmp_path / "half", own / "model"):
        drift = small(corpora=[str(corpus)], base=str(own / "model"))
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[drift], default_root_dir=str(tmp_path), precision="64-true")
        module = DomainSFT(Standard(), pretrained=str(weights), generation=Generation(max_new_tokens=1))
        trainer.test(module, records(own), verbose=False)
        assert set(names) <= set(module.score_records())
        measured.append({name: float(trainer.callback_metrics[name]) for name in names})
    tuned, half, base = measured
    assert tuned == pytest.approx({name: at_end[name.removeprefix("drift/")] for name in names}, rel=1e-5)
    assert 0 < half["drift/kl"] < tuned["drift/kl"] and base["drift/kl"] == 0 and base["drift/agreement"] == 1


def test_padding_is_neither_read_nor_counted() -> None:
    inputs, labels = pad_blocks([[7, 8, 9], [7, 8]])
    assert inputs.tolist() == [[7, 8], [7, 0]] and labels.tolist() == [[8, 9], [8, -100]]


def no_file(folder: Path) -> Path:
    return folder / "nothing.txt"


def empty(folder: Path) -> Path:
    (folder / "empty.txt").write_bytes(b"")
    return folder / "empty.txt"


def latin(folder: Path) -> Path:
    (folder / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    return folder / "latin.txt"


def cut(folder: Path) -> Path:
    (folder / "cut.txt.gz").write_bytes(gzip.compress(b"A text that is long enough to be cut.")[:-9])
    return folder / "cut.txt.gz"


@pytest.mark.parametrize(
    ("make", "message"),
    [(no_file, r"cannot be read \(No such file"), (empty, "is empty"), (latin, r"is not UTF-8 text \(byte 2\)"), (cut, "cannot be read .Compressed")],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_text(make(tmp_path), 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_epochs": 0}, "`every_n_epochs` must be at least 1, got 0"),
        ({"every_n_steps": 0}, "`every_n_steps` must be at least 1, got 0"),
        ({"num_sequences": 1}, "`num_sequences` must be at least 2, got 1"),
        ({"length": 0}, "`length` must be at least 1, got 0"),
        ({"corpora": ["a/text.txt", "b/text.md"]}, "which must differ, got text, text"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Drift(**options)


def test_what_cannot_be_measured_is_refused(own: Path) -> None:
    with pytest.raises(ValueError, match="`Drift` compares with the base model, and a run from random weights has none; give `model.pretrained`"):
        run(own, small(), "random", architecture=QWEN3)
    with pytest.raises(ValueError, match="`context` must be at least 1 and at most the 512 positions of the model, got 513"):
        run(own, small(length=513), "long")

    class Sharded:
        strategy, datamodule = FSDP2Strategy(), None

    class Module:
        pretrained = "somewhere"

    with pytest.raises(ValueError, match=r"every weight is sharded \(ZeRO-3, FSDP2\); leave it out"):
        Drift().setup(Sharded(), Module(), "fit")  # type: ignore[arg-type]


def test_the_error_is_that_of_the_mean_over_sequences(own: Path, watched: Any) -> None:
    run(own, small(num_sequences=96), "many")
    few, many = rows(own)[-1], rows(own, "many")[-1]
    assert many["kl_se"] < few["kl_se"] and abs(many["kl"] - few["kl"]) < 4 * math.hypot(many["kl_se"], few["kl_se"])


@pytest.mark.slow
def test_the_shipped_file_and_a_budget_behind_it(tmp_path: Path) -> None:
    """On the embedded base, through the command line; the budget is exceeded, so that the base model is exported."""
    more = [{"class_path": "DriftBudget", "init_args": {"kl": 1e-4, "on_exceeded": "restore"}}, {"class_path": "Summary"}, {"class_path": "HFExport"}]
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks+": more}}))
    names = ("model/lab", "data/clinic", "loss/standard", "eval/drift")
    words = [word for name in names for word in ("-c", f"configs/{name}.yaml")] + ["-c", str(tmp_path / "more.yaml")]
    sizes = ["--data.train_size", "24", "--data.val_size", "4", "--data.test_size", "4", "--data.batching.batch_size", "8", "--trainer.max_steps", "1"]
    quiet = ["--model.schedule", "Constant", "--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
    main(["fit", *words, *sizes, *quiet, "--run", str(tmp_path / "run")])
    found = read_values(tmp_path / "run", "fit")
    first, last = read_json_lines(tmp_path / "run" / "drift.jsonl")
    assert found["drift/kl"] == first["kl"] == 0 and found["drift/restored_step"] == 0 and last["step"] == 1
    assert last["kl"] - 2 * last["kl_se"] > 1e-4
    start, exported = (load_file(folder / "model.safetensors") for folder in (LAB, tmp_path / "run" / "export"))
    assert all(torch.equal(value.float(), exported[name]) for name, value in start.items())
