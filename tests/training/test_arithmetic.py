"""All scores of a run are in one arithmetic, which is what its name says, and training does not notice."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import DomainScore, Drift, GeneralScore, HFExport, Summary, TokenProbability, WholeCheckpoint
from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.losses import Standard
from lit_talr.modeling.adapters import Adapter, LoRA
from lit_talr.modeling.arithmetic import Arithmetic, arithmetic_name, check_arithmetic
from lit_talr.modeling.generation import Generation
from lit_talr.modeling.strategies import FSDP2Strategy
from lit_talr.module import DomainSFT
from lit_talr.utils.score import read_scores
from tests.helpers.fits import records, write_data
from tests.helpers.params import first_is_fast

NAMES: dict[Arithmetic, str] = {"training": "bf16 autocast", "fp32": "fp32", "bf16": "bf16 weights"}
FEW = Generation(max_new_tokens=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arithmetic")
    write_data(folder)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    for weight in model.parameters():
        weight.data.mul_(4)  # so that rounding shows
    model.save_pretrained(folder / "model")
    return folder


def run(folder: Path, out: Path, arithmetic: Arithmetic, *callbacks: Callback, adapter: Adapter | None = None, epochs: int = 1) -> tuple[DomainSFT, Trainer]:
    torch.manual_seed(0)
    sgd = lambda weights: torch.optim.SGD(weights, lr=0.05)  # noqa: E731
    module = DomainSFT(Standard(), optimizer=sgd, pretrained=str(folder / "model"), arithmetic=arithmetic, adapter=adapter, generation=FEW)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": any(isinstance(part, WholeCheckpoint) for part in callbacks)}
    options |= {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = Trainer(**options, precision="bf16-mixed", max_epochs=epochs, default_root_dir=str(out), callbacks=list(callbacks))
    trainer.fit(module, datamodule=records(folder))
    return module, trainer


def naive_nll(module: DomainSFT, model: Any, autocast: bool) -> float:
    """By transformers' own decoder."""
    total, number = 0.0, 0
    data = module.data
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for row in data.val_dataloader():
            hidden, weight = model.get_decoder()(row["input_ids"], use_cache=False).last_hidden_state, model.get_output_embeddings().weight
            if autocast or weight.dtype == torch.bfloat16:  # products in bfloat16, their sums, the logits, in float32
                hidden, weight = hidden.bfloat16(), weight.bfloat16()
            with torch.autocast("cpu", enabled=False):
                logits = hidden.float() @ weight.float().T
            total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), row["labels"].flatten(), ignore_index=IGNORE_INDEX, reduction="sum"))
            number += int((row["labels"] != IGNORE_INDEX).sum())
    return total / number


@pytest.mark.parametrize("arithmetic", NAMES)
@pytest.mark.parametrize("adapter", first_is_fast(None, LoRA(r=4, alpha=8)))
def test_validation_is_what_its_name_says(folder: Path, tmp_path: Path, arithmetic: Arithmetic, adapter: Adapter | None) -> None:
    module, _ = run(folder, tmp_path, arithmetic, Summary(), HFExport(), adapter=adapter)
    score = read_scores(tmp_path / "metrics.json")["fit"]["val/nll"]
    assert score.arithmetic == NAMES[arithmetic] and score.step == 3 and score.unit == "tokens"
    exported = [AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=dtype).eval() for dtype in (torch.float32, torch.bfloat16)]
    assert module.backbone is not None
    live = module.backbone.model.eval()
    expected = {
        "training": lambda: naive_nll(module, live, autocast=True),
        "fp32": lambda: naive_nll(module, exported[0], autocast=False),
        "bf16": lambda: naive_nll(module, exported[1], autocast=False),
    }
    assert score.value == pytest.approx(expected[arithmetic](), rel=1e-5)
    others = [expected[name]() for name in NAMES if name != arithmetic]
    assert all(abs(score.value - other) > abs(score.value - expected[arithmetic]()) for other in others)


@pytest.mark.slow
def test_training_is_bitwise_the_same_whatever_scores_are_computed_in(folder: Path, tmp_path: Path) -> None:
    states: list[dict[str, Tensor]] = []
    for arithmetic in NAMES:
        module, _ = run(folder, tmp_path / arithmetic, arithmetic, TokenProbability(probe_size=4), Drift(num_sequences=2, length=4), epochs=2)
        states.append(module.state_dict())
    for state in states[1:]:
        assert all(torch.equal(value, state[name]) and value.dtype == state[name].dtype for name, value in states[0].items())


@pytest.mark.parametrize("arithmetic", first_is_fast(*NAMES))
def test_everything_that_scores_is_in_it(folder: Path, tmp_path: Path, arithmetic: Arithmetic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation, responses, general suites, drift, the probe of token statistics: seen at the decoder whenever the model runs without gradient."""
    seen: set[tuple[bool, torch.dtype]] = set()
    suites = {"own": lambda tokenizer, revision: records(folder)}

    class Watch(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            layer = pl_module.backbone.decoder.layers[0].mlp.up_proj

            def note(module: Any, inputs: Any, output: Tensor) -> None:
                if not torch.is_grad_enabled():
                    seen.add((torch.is_autocast_enabled("cpu"), module.weight.dtype))

            layer.register_forward_hook(note)

    watch = [Watch(), Summary(), DomainScore(every_n_epochs=1), TokenProbability(probe_size=4), Drift(num_sequences=2, length=4)]
    module, trainer = run(folder, tmp_path, arithmetic, *watch, GeneralScore(suites, generation=FEW))
    trainer.test(module, datamodule=records(folder), verbose=False)
    expected = {"training": (True, torch.float32), "fp32": (False, torch.float32), "bf16": (False, torch.bfloat16)}[arithmetic]
    assert seen == {expected}
    scores = read_scores(tmp_path / "metrics.json")
    names = {"val/nll", "val/score", "general/own", "drift/kl", "test/score"}
    found = {name: score for by_name in scores.values() for name, score in by_name.items() if name in names}
    assert found.keys() == names and {score.arithmetic for score in found.values()} == {NAMES[arithmetic]}
    assert all(score.items and score.num_items for score in found.values())
    assert len({score.base for score in found.values()}) == 1


@pytest.mark.slow
def test_drift_of_the_base_is_none_in_every_arithmetic(folder: Path, tmp_path: Path) -> None:
    for arithmetic in NAMES:
        drift = Drift(num_sequences=2, length=8)
        run(folder, tmp_path / arithmetic, arithmetic, drift)
        assert drift.rows[0]["step"] == 0 and drift.rows[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert drift.rows[-1]["kl"] > 0 and math.isfinite(drift.rows[-1]["kl"])


def test_a_run_that_is_ended_while_weights_are_rounded_saves_its_own(folder: Path, tmp_path: Path) -> None:
    class Ask(Callback):
        def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WholeCheckpoint):
                    callback.asked_to_end = True

    with pytest.raises(SystemExit, match="143") if False else pytest.raises(BaseException):
        run(folder, tmp_path, "bf16", Ask(), WholeCheckpoint())
    (path,) = (tmp_path / "checkpoints").glob("last*")
    state = torch.load(path, weights_only=True)["state_dict"]
    assert all(value.dtype == torch.float32 for value in state.values())
    assert any(not torch.equal(value, value.bfloat16().float()) for value in state.values())


def test_what_cannot_be_computed_is_refused() -> None:
    sharded: Any = SimpleNamespace(strategy=FSDP2Strategy(), precision="bf16-mixed")
    check_arithmetic(sharded, "training")
    check_arithmetic(sharded, "bf16")  # which the engine gathers anyway
    assert arithmetic_name(sharded, "training") == "bf16 weights"
    with pytest.raises(ValueError, match="`model.arithmetic: fp32` is not supported where every weight is sharded"):
        check_arithmetic(sharded, "fp32")
    with pytest.raises(ValueError, match="`model.arithmetic` must be one of training, fp32, bf16, got 'fp8'"):
        check_arithmetic(sharded, "fp8")  # type: ignore[arg-type]
