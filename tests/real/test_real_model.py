"""On a real pretrained model: the first losses are those of a plain loop, and what is written works in PEFT and transformers."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_talr.callbacks import Drift, HFExport
from lit_talr.checkpoint.merge import merge
from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example
from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.domains import Records
from lit_talr.losses import TALR, LossStrategy, Standard
from lit_talr.modeling.adapters import Adapter, LoRA
from lit_talr.modeling.generation import Generation
from lit_talr.modeling.loading import load_model
from lit_talr.modeling.twin import twin_errors
from lit_talr.module import DomainSFT
from lit_talr.training.schedules import Constant
from tests.helpers.models import ARCHITECTURES

pytestmark = pytest.mark.real
ROWS = [
    {"prompt": "Query: rain boots for men\nProduct: ankle boots, green rubber\nDoes the product fit?", "response": '{"answer": "E"}'},
    {"prompt": "Name the capital of Norway.", "response": "The capital of Norway is Oslo, a city of some 700,000 people."},
    {"prompt": "What is 17 + 25?", "response": "42"},
    {"prompt": "Write one line about the sea. 🌊", "response": "  Grey water, café lights — and nobody home.\n"},
]
NUM_STEPS = 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


class Losses(Callback):
    """Keeps the loss of each step, and what the trained model makes of some tokens."""

    def __init__(self, ids: Tensor | None = None) -> None:
        self.values: list[float] = []
        self.ids, self.logits = ids, torch.empty(0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: DomainSFT, outputs: Any, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.values.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if self.ids is not None:
            self.logits = logits_of(pl_module.backbone.model, self.ids)  # type: ignore[union-attr]


@torch.no_grad()
def logits_of(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """By a whole model in evaluation mode."""
    logits: Tensor = model.eval()(ids).logits
    return logits


def fit(
    model: Path,
    rows: Path,
    folder: Path,
    loss: LossStrategy,
    adapter: Adapter | None = None,
    more: tuple[Callback, ...] = (),
    rate: float = 1e-4,
    precision: Literal["32-true", "64-true"] = "32-true",
) -> list[float]:
    """Train on all rows in each step; returns the losses."""
    seed_everything(0, verbose=False)
    losses = Losses()
    data = Records(train=str(rows), val=str(rows), test=str(rows), batching=Batching(batch_size=4, micro_batch_size=4), encoding=Encoding(max_length=256))
    module = DomainSFT(loss, partial(torch.optim.SGD, lr=rate), Constant(), pretrained=str(model), adapter=adapter)
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "limit_val_batches": 0, "precision": precision}
    Trainer(**options, max_steps=NUM_STEPS, callbacks=[*more, losses], default_root_dir=str(folder)).fit(module, data)
    return losses.values


def supervised_nll(model: Any, tokenizer: Any, row: dict[str, str]) -> Tensor:
    """The plain formula: from the template's own render, the NLL of the response and the end of its turn, one row at a time."""
    prompt = [{"role": "user", "content": row["prompt"]}]
    before = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": row["response"]}], tokenize=False)
    assert whole.startswith(before) and whole.endswith("<|im_end|>\n")
    first, rest = (tokenizer(text, add_special_tokens=False).input_ids for text in (before, whole[len(before) :].removesuffix("\n")))
    ids = torch.tensor([[*first, *rest]])
    logits = model(input_ids=ids).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")[len(first) - 1 :]


def plain_losses(folder: Path, is_talr: bool, rate: float = 1e-4) -> list[float]:
    """SGD written out, in float64; TALR's temperature is the lower median over rows of their mean NLL, its floor .01."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).train(), AutoTokenizer.from_pretrained(folder)
    losses = []
    for _ in range(NUM_STEPS):
        nlls = [supervised_nll(model, tokenizer, row) for row in ROWS]
        nll = torch.cat(nlls)
        temperature = torch.stack([row.detach().mean() for row in nlls]).median()
        weights = (-nll.detach() / temperature).exp().clamp(min=0.01) if is_talr else torch.ones_like(nll)
        loss = (weights * nll).sum() / len(nll)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= rate * weight.grad
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def twins(real: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small random models of three families with the real tokenizer and template, and the real one."""
    folders = {"real": real}
    for family in ("qwen3", "llama"):
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(real)
        load_model(None, None, ARCHITECTURES[family], len(tokenizer), None).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[family] = folder
    return folders


@pytest.mark.parametrize("loss", [Standard, TALR])
@pytest.mark.parametrize("name", ["real", "qwen3", "llama"])
def test_first_losses_are_those_of_a_plain_loop(twins: dict[str, Path], rows: Path, tmp_path: Path, name: str, loss: type[LossStrategy]) -> None:
    """In float64: in float32, processors differ by up to 1.3e-5."""
    expected = plain_losses(twins[name], loss is TALR)
    assert fit(twins[name], rows, tmp_path, loss(), precision="64-true") == pytest.approx(expected, rel=1e-6)
    assert expected[1] < expected[0] and all(math.isfinite(value) for value in expected)


def test_the_export_is_a_plain_transformers_model(real: Path, rows: Path, tmp_path: Path) -> None:
    """Its logits are those of the model in memory, and half-way back to the base model lies half-way."""
    tokens = torch.arange(1000, 1020)[None]
    in_memory = Losses(tokens)
    fit(real, rows, tmp_path, Standard(), more=(HFExport(), in_memory), rate=1e-3)
    export = tmp_path / "export"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32), AutoTokenizer.from_pretrained(export)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(real).chat_template
    assert (logits_of(model, tokens) - in_memory.logits).abs().max() < 1e-5
    merge(tmp_path / "half", tuned=str(export), base=str(real))
    base, tuned, half = (load_file(folder / "model.safetensors") for folder in (real, export, tmp_path / "half"))
    moved = [name for name in tuned if not torch.equal(tuned[name].float(), base[name].float())]
    assert len(moved) > 200
    for name in moved[:20]:
        assert torch.allclose(half[name].float(), (base[name].float() + tuned[name].float()) / 2, atol=1e-7)


def test_the_adapter_loads_in_peft_and_its_merge_in_transformers(real: Path, rows: Path, tmp_path: Path) -> None:
    ids = AutoTokenizer.from_pretrained(real)(ROWS[1]["prompt"], return_tensors="pt").input_ids
    in_memory = Losses(ids)
    fit(real, rows, tmp_path, Standard(), adapter=LoRA(r=4, alpha=8), more=(HFExport(), in_memory), rate=0.5)
    base = AutoModelForCausalLM.from_pretrained(real, dtype=torch.float32).eval()
    with torch.no_grad():
        plain = base(ids).logits
        (adapter,) = {path.parent for path in tmp_path.rglob("adapter_config.json")}
        adapted = PeftModel.from_pretrained(base, adapter).eval()(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=torch.float32).eval()(ids).logits
    assert (adapted - plain).abs().max() > 1e-2
    assert (adapted - in_memory.logits).abs().max() < 1e-5
    assert (adapted - merged).abs().max() < 1e-4 * adapted.abs().max()


def test_its_weights_lie_on_the_grid_of_bfloat16(real: Path) -> None:
    assert all(weight.dtype == torch.bfloat16 for weight in load_file(real / "model.safetensors").values())


def test_its_tokens(real: Path) -> None:
    """By hand, from the template's own words: the turn ends with <|im_end|>, the newline behind it is context."""
    tokenizer = load_tokenizer(str(real))
    encoder = ChatEncoder(tokenizer, Encoding())
    row = encoder.encode(Example.from_prompt("Hi <|im_end|>", "Yes.", system="Be brief."))
    text = tokenizer.decode(row.input_ids)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"
    ends = [int(token) for token in row.input_ids].count(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert ends == 3  # that of the user's text is letters
    learned = [int(token) for token in row.input_ids[row.supervised]]
    assert tokenizer.convert_ids_to_tokens(learned) == ["Yes", ".", "<|im_end|>"]
    assert set(encoder.stop_token_ids) == {tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_its_twin_agrees_and_isolates(real: Path) -> None:
    errors = twin_errors(AutoModelForCausalLM.from_pretrained(real, dtype=torch.bfloat16).config, "sdpa")
    assert errors.nll < 1e-4 and errors.gradient < 1e-3 and errors.packed < 1e-4


def test_packed_rows_have_the_losses_of_padded_ones(real: Path, rows: Path, tmp_path: Path) -> None:
    padded = plain_losses(real, is_talr=False)
    data = Records(train=str(rows), val=str(rows), test=str(rows), batching=Batching(batch_size=4, packing=True, micro_batch_tokens=256))
    losses, module = Losses(), DomainSFT(Standard(), partial(torch.optim.SGD, lr=1e-4), Constant(), pretrained=str(real))
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    Trainer(**options, max_steps=NUM_STEPS, callbacks=[losses], default_root_dir=str(tmp_path), enable_model_summary=False).fit(module, data)
    assert losses.values == pytest.approx(padded, rel=1e-5)


def test_it_responds_as_transformers_generates(real: Path, tmp_path: Path) -> None:
    question = "What is the capital of France?"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": question, "response": "Paris"}) + "\n")
    files = dict.fromkeys(("train", "val", "test"), str(tmp_path / "rows.jsonl"))
    module = DomainSFT(Standard(), pretrained=str(real), generation=Generation(max_new_tokens=16))
    answers: list[str] = []

    class Keep(Callback):
        def on_test_batch_end(self, trainer: Trainer, pl_module: DomainSFT, outputs: Any, *_: Any) -> None:  # type: ignore[override]
            answers.extend(response.text for response in outputs)

    drift = Drift(num_sequences=2, length=8)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[Keep(), drift], default_root_dir=str(tmp_path))
    trainer.test(module, Records(**files), verbose=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(real, dtype=torch.float32), AutoTokenizer.from_pretrained(real)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    assert answers == [tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)] and "Paris" in answers[0]
    assert float(trainer.callback_metrics["drift/kl"]) == 0


@pytest.mark.slow
def test_the_loss_of_trl_has_the_newline_after_the_end_of_turn_too(real: Path, tmp_path: Path) -> None:
    """On the same rows TRL learns what the template writes after the end of turn, one token a row, and all else is the same.

    Not so the last row, whose response begins with blanks: TRL tokenises prompt and response together, where they join the prompt's newline, and says that.
    """
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(real, dtype=torch.float32), AutoTokenizer.from_pretrained(real)
    rows, shared = ROWS[:-1], list[Tensor]()
    newlines: list[Tensor] = []
    with torch.no_grad():
        for row in rows:
            shared.append(supervised_nll(model, tokenizer, row))
            turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
            ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
            assert tokenizer.decode(ids[0, -2:]) == "<|im_end|>\n"
            newlines.append(-model(input_ids=ids).logits[0, -2].log_softmax(-1)[ids[0, -1]][None])
    turns_of = [{"prompt": [{"role": "user", "content": row["prompt"]}], "completion": [{"role": "assistant", "content": row["response"]}]} for row in rows]
    options: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "use_cpu": True, "bf16": False}
    options |= {"max_steps": 1, "per_device_train_batch_size": len(rows), "completion_only_loss": True, "gradient_checkpointing": False}
    data = datasets.Dataset.from_list(turns_of)
    trainer = trl.SFTTrainer(model, trl.SFTConfig(str(tmp_path), **options), train_dataset=data, processing_class=tokenizer)
    trainer.train()
    theirs = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    assert theirs == pytest.approx(torch.cat([*shared, *newlines]).mean().item(), rel=1e-4)  # it logs four digits
    assert theirs != pytest.approx(torch.cat(shared).mean().item(), rel=1e-2)
