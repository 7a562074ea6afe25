"""Weights of the data in a step: the naive formula, whatever the layout; what counts tokens counts those above 0 once."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lit_talr.callbacks import TokenProbability
from lit_talr.callbacks.terminal import weighted
from lit_talr.data.batch_plan import epoch_order
from lit_talr.domains import Records, Replay
from lit_talr.losses import DFT, FLOW, KL, L2, TALR, LossStrategy, Permuted, Standard
from lit_talr.losses.base import TokenStats, token_weights
from lit_talr.modeling.loading import load_model
from lit_talr.module import DomainSFT
from lit_talr.training.building import Compute
from tests.helpers.fits import BATCH_SIZE, distance, fit, records, weighted_records
from tests.helpers.params import first_is_fast

STEPS, PROMPT_WEIGHT = 4, 0.3
PACKED = {"micro_batch_tokens": 300, "packing": True}
Formula = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""The sum over a row of what a loss adds up: of NLLs, base NLLs, log-probabilities of model and base, and the median of FLOW."""


def plain(nll: Tensor, weights: Tensor, *_: Any) -> Tensor:
    return (weights * nll).sum()


def dft(nll: Tensor, weights: Tensor, *_: Any) -> Tensor:
    return (weights * nll * (-nll.detach()).exp()).sum()


def flow(nll: Tensor, weights: Tensor, logits: Tensor, base: Tensor, labels: Tensor, median: float) -> Tensor:
    mean = -base.log_softmax(-1).gather(-1, labels[:, None]).mean()
    return (weights * nll).sum() * (-mean / median).exp()


def kl(nll: Tensor, weights: Tensor, logits: Tensor, base: Tensor, *_: Any) -> Tensor:
    """The divergence of every supervised token counts once, whatever its weight."""
    return (weights * nll).sum() + 2.0 * (base.softmax(-1) * (base.log_softmax(-1) - logits.log_softmax(-1))).sum()


CASES: dict[str, tuple[Callable[[], LossStrategy], Any]] = {
    "standard": (Standard, plain),
    "dft": (DFT, dft),
    "flow": (FLOW, flow),
    "kl": (lambda: KL(Standard(), 2.0), kl),
}


def naive_rows(folder: Path) -> list[tuple[Tensor, Tensor]]:
    """Tokens and weights of each row, written from the file by hand: every character is a token."""
    rows = []
    for line in (folder / "weighted.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = [257, *b"system\nYou are a helpful assistant.", 258, 10, 257, *b"user\n", *row["prompt"].encode(), 258, 10, 257, *b"assistant\n"]
        own = [next((weight for start, end, weight in row["spans"] if start <= at < end), 1.0) for at in range(len(row["response"]))]
        weights = torch.tensor([0.0] + [PROMPT_WEIGHT] * (len(prompt) - 1) + own + [1.0], dtype=torch.float64) * row["row_weight"]
        rows.append((torch.tensor([*prompt, *row["response"].encode(), 258]), weights.float().double()))
    return rows


def naive(folder: Path, formula: Any) -> tuple[dict[str, Tensor], float]:
    """The weights after some steps of SGD over whole batches, and the last step's loss."""
    torch.set_default_dtype(torch.float64)
    model, base = (load_model(str(folder / "model"), None, None, 0, None) for _ in range(2))
    torch.set_default_dtype(torch.float32)
    optimizer, rows, value = torch.optim.SGD(model.parameters(), lr=0.3), naive_rows(folder), 0.0

    def parts(row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tokens, weights = rows[row]
        kept = weights[1:] != 0
        with torch.no_grad():
            base_logits = base(tokens[None]).logits[0, :-1][kept]
        return model(tokens[None]).logits[0, :-1][kept], base_logits, tokens[1:][kept], weights[1:][kept]

    def mean_nll(base_logits: Tensor, labels: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(base_logits, labels)

    median = torch.stack([mean_nll(*parts(row)[1:3]) for row in range(len(rows))]).quantile(0.5)
    for step in range(STEPS):
        epoch, index = divmod(step, -(-len(rows) // BATCH_SIZE))
        total, number = torch.zeros((), dtype=torch.float64), 0
        for row in epoch_order(len(rows), 0, epoch, True)[index * BATCH_SIZE : (index + 1) * BATCH_SIZE].tolist():
            logits, base_logits, labels, weights = parts(row)
            nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            total, number = total + formula(nll, weights, logits, base_logits, labels, median), number + len(labels)
        optimizer.zero_grad()
        value = total.item() / number
        (total / number).backward()
        optimizer.step()
    return {name: weight.detach() for name, weight in model.named_parameters()}, value


class Losses(Callback):
    def __init__(self) -> None:
        self.last = 0.0

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.last = float(trainer.callback_metrics["train/loss"])


@pytest.fixture(scope="module")
def start(folder: Path) -> dict[str, Tensor]:
    return fit(folder, Standard(), optimizer=partial(torch.optim.SGD, lr=0.0), steps=1)


@pytest.mark.parametrize("name", first_is_fast("dft", "standard", "flow", "kl"))
def test_a_step_is_the_naive_formula_however_it_is_split(folder: Path, start: Any, name: str) -> None:
    make, formula = CASES[name]
    expected, value = naive(folder, formula)
    for batching in ({"micro_batch_size": 3}, PACKED):
        seen = Losses()
        weights = fit(folder, make(), steps=STEPS, batching=batching, data=weighted_records, trainer={"callbacks": [seen]})
        assert distance(weights, expected, start) < (1e-7 if name == "flow" else 1e-10)  # base NLLs are kept in float32
        assert seen.last == pytest.approx(value, rel=1e-6)


def test_weights_of_one_change_no_bit(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    (tmp_path / "ones.jsonl").write_text("".join(json.dumps({**row, "w": 1, "spans": [[0, 1, 1.0]]}) + "\n" for row in rows))

    def ones(folder: Path, **batching: Any) -> Records:
        own = records(folder, **batching)
        files: dict[str, Any] = {"train": str(tmp_path / "ones.jsonl"), "val": own.val, "test": own.test}
        return Records(own.tokenizer, batching=own.batching, weight="w", span_weights="spans", **files)

    first, second = (fit(folder, TALR(), steps=2, batching={"micro_batch_size": 3}, data=data) for data in (records, ones))
    assert all(first[name].equal(second[name]) for name in first)


def test_a_resumed_run_is_bitwise_the_same_and_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batching": {"micro_batch_size": 3}, "data": weighted_records}
    whole = fit(folder, TALR(scope="step"), **options)
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1)
    fit(folder, TALR(scope="step"), **options, steps=3, trainer={"enable_checkpointing": True, "callbacks": [keep]})
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, TALR(scope="step"), **options, ckpt_path=str(checkpoint))
    assert all(whole[name].equal(resumed[name]) for name in whole)

    def heavier(folder: Path, **batching: Any) -> Records:
        data = weighted_records(folder, **batching)
        lines = [json.loads(line) for line in Path(str(data.train)).read_text().splitlines()]
        (tmp_path / "other.jsonl").write_text("".join(json.dumps({**row, "row_weight": 2 * row["row_weight"]}) + "\n" for row in lines))
        data.train = str(tmp_path / "other.jsonl")
        return data

    with pytest.raises(ValueError, match="training rows .hash of their tokens"):
        fit(folder, TALR(scope="step"), **{**options, "data": heavier}, ckpt_path=str(checkpoint))


@pytest.mark.slow
def test_recomputation_and_wrappers_change_nothing(folder: Path, start: Any) -> None:
    options: dict[str, Any] = {"steps": 2, "batching": {"micro_batch_size": 3}, "data": weighted_records}
    once = fit(folder, Standard(), **options)
    again = fit(folder, L2(Standard(), 0.0), module_class=partial(DomainSFT, compute=Compute(gradient_checkpointing=True, kept_logits=0)), **options)
    assert distance(again, once, start) < 1e-12
    assert distance(fit(folder, Standard(), steps=2, batching={"micro_batch_size": 3}), once, start) > 0.01


def test_token_statistics_have_the_weight_that_trains(folder: Path, tmp_path: Path) -> None:
    floor = TALR(temperature=1e-3, floor=0.25)  # every token is at the floor
    options: dict[str, Any] = {"callbacks": [TokenProbability(probe_size=20)], "default_root_dir": str(tmp_path), "max_epochs": 1}
    fit(folder, floor, steps=-1, data=weighted_records, trainer=options)
    rows = pd.read_parquet(tmp_path / "token_probability.parquet").query("group == 'all' and epoch == 1").set_index("set")
    kept = torch.cat([weights[1:][weights[1:] != 0] for _, weights in naive_rows(folder)])
    assert rows.loc["train", "num_tokens"] == rows.loc["probe", "num_tokens"] == len(kept)
    assert rows.loc["train", "weight"] == pytest.approx(0.25 * float(kept.mean()), rel=1e-6)
    assert rows.loc["train", "share_at_floor"] == 1


def test_rows_that_are_set_aside_and_replayed_rows_keep_theirs(folder: Path) -> None:
    own, general = weighted_records(folder), records(folder)

    def replayed(*arguments: Any) -> Records:
        return Records(*arguments, train=general.train)

    files = {"train": own.train, "val": own.val, "test": own.test}
    mixed = Replay(replayed)
    data = Records(own.tokenizer, encoding=own.encoding, batching=own.batching, **files, weight="row_weight", span_weights="spans", replay=mixed)
    data.trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    data.encode("train")
    expected = torch.cat([weights for _, weights in naive_rows(folder)]).numpy()
    weights, mask = data.encoded["train"].weights, data.encoded["train"].supervised
    assert weights is not None and (weights[: len(expected)][mask[: len(expected)]] == expected[expected != 0]).all()
    assert weighted(data.encoded["train"]) == f", of weights from {expected[expected != 0].min():g} to {expected.max():g} in the data"
    assert set(weights[len(expected) :][mask[len(expected) :]].tolist()) == {1.0, float(torch.tensor(PROMPT_WEIGHT))}
    own.held_out, own.trainer = 0.4, data.trainer
    own.encode("train")
    for part in ("train", "held_out"):
        encoded = own.encoded[part]
        first = [float(encoded.weights[end - 1]) for end in encoded.offsets[1:]]  # of the end token
        assert first == [float(torch.tensor(example.weight)) for example in own.kept[part]]


@pytest.mark.parametrize("loss", [TALR(), Permuted(TALR()), L2(DFT()), Standard()], ids=lambda loss: type(loss).__name__)
def test_any_loss_is_multiplied_after_it_weighed_the_nll_alone(loss: LossStrategy) -> None:
    draw = torch.Generator().manual_seed(0)
    nll, own = (torch.rand(3, 7, generator=draw) for _ in range(2))
    stats = TokenStats(nll, torch.rand(3, 7, generator=draw) > 0.3, torch.arange(3)[:, None].expand(3, 7))
    assert token_weights(loss, stats._replace(data_weights=own)).equal(token_weights(loss, stats) * own)
