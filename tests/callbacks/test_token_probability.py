import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import TokenProbability
from lit_talr.callbacks.token_probability import probe_ids
from lit_talr.curriculum.difficulty import GROUPS
from lit_talr.data.batch_plan import MicroBatch
from lit_talr.losses import ASFT, EAFT, FLOW, TALR, LossStrategy, Permuted, PriFT, Standard
from lit_talr.modeling.loading import new_config
from tests.helpers.fits import QWEN3, fit, noisy_records, records
from tests.helpers.params import first_is_fast

TEMPERATURE, FLOOR, STEPS = 3.0, 0.2, 10
NUM_BINS = 8


def watch(**options: Any) -> TokenProbability:
    return TokenProbability(**{"probe_size": 7, "num_bins": NUM_BINS, "num_hardest": 3, "cohort_edges": [0.0037, 0.01], **options})


def run(folder: Path, out: Path, callback: TokenProbability, loss: LossStrategy | None = None, **options: Any) -> dict[str, Tensor]:
    trainer = {"callbacks": [callback], "default_root_dir": str(out), **options.pop("trainer", {})}
    return fit(folder, loss or TALR(temperature=TEMPERATURE, floor=FLOOR), trainer=trainer, **options)


def table(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "token_probability.parquet")


def rows(found: pd.DataFrame, name: str, group: str, epoch: int) -> pd.DataFrame:
    return found[(found["set"] == name) & (found["group"] == group) & (found["epoch"] == epoch)].reset_index(drop=True)


def naive_nll(folder: Path, weights: dict[str, Tensor], ids: list[int]) -> list[Tensor]:
    """The NLL of the supervised tokens of each training row, from full logits, one row at a time."""
    data = records(folder)
    model = AutoModelForCausalLM.from_config(new_config(QWEN3, len(data.encoder.tokenizer))).double().eval()
    model.load_state_dict(weights, strict=False)
    result = []
    for index in ids:
        row = data.encoder.encode(data.examples("train")[index])
        tokens = torch.tensor(row.input_ids)
        with torch.no_grad():
            log_probabilities = model(tokens[None]).logits[0, :-1].double().log_softmax(-1)
        places = torch.tensor(row.supervised)[1:].nonzero()[:, 0]
        result.append(-log_probabilities[places, tokens[1:][places]])
    return result


@pytest.fixture(scope="module")
def learned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Tensor]]]:
    """A run of ten steps, one an epoch, so that the weights before each step were saved; with them."""
    out = tmp_path_factory.mktemp("learned")
    checkpoints = ModelCheckpoint(dirpath=out, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    options = {"callbacks": [watch(), checkpoints], "default_root_dir": str(out), "enable_checkpointing": True}
    start = fit(folder, Standard(), optimizer=partial(torch.optim.SGD, lr=0.0), steps=1)
    fit(folder, TALR(temperature=TEMPERATURE, floor=FLOOR), steps=STEPS, batching={"batch_size": 20, "micro_batch_size": 3}, trainer=options)
    saved = [torch.load(out / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"] for epoch in range(1, STEPS + 1)]
    strip = "backbone.model."
    return out, [start, *({name.removeprefix(strip): weight for name, weight in state.items() if name.startswith(strip)} for state in saved)]


def test_training_counts_are_those_of_a_loop_with_the_saved_weights(folder: Path, learned: tuple[Path, list[dict[str, Tensor]]]) -> None:
    out, weights = learned
    for epoch in range(1, STEPS + 1):
        nll = torch.cat(naive_nll(folder, weights[epoch - 1], list(range(20))))
        assert len(nll) == records_supervised(folder)
        found = rows(table(out), "train", "bin", epoch)
        for index, row in found.iterrows():
            probability = (-nll).exp()
            inside = nll[(probability * NUM_BINS).long().clamp(max=NUM_BINS - 1) == index]
            assert row["num_tokens"] == len(inside)
            if len(inside):
                weight = (-inside / TEMPERATURE).exp().clamp(min=FLOOR)
                assert row["nll"] == pytest.approx(float(inside.mean()), rel=1e-9)
                assert row["weight"] == pytest.approx(float(weight.mean()), rel=1e-9)
                assert row["weighted_nll"] == pytest.approx(float((weight * inside).mean()), rel=1e-9)
                assert row["share_above"] == pytest.approx(float((probability > 0.2)[torch.isin(nll, inside)].double().mean()))
                assert row["share_at_floor"] == pytest.approx(float((weight == FLOOR).double().mean()))
        assert found["num_tokens"].sum() == len(nll) == rows(table(out), "train", "all", epoch)["num_tokens"].item()
    assert (found["num_tokens"] > 0).sum() > 1, "the tokens should not all lie in one bin"


def records_supervised(folder: Path) -> int:
    data = records(folder)
    return sum(sum(data.encoder.encode(example).supervised) for example in data.examples("train"))


def test_probe_counts_and_cohorts_are_those_of_a_loop_with_the_saved_weights(folder: Path, learned: tuple[Path, list[dict[str, Tensor]]]) -> None:
    out, weights = learned
    found = table(out)
    ids = probe_of(out, folder)
    start = torch.cat(naive_nll(folder, weights[0], ids))
    for epoch in range(STEPS + 1):
        nll = torch.cat(naive_nll(folder, weights[epoch], ids))
        places = ((-nll).exp() * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        assert rows(found, "probe", "bin", epoch)["num_tokens"].tolist() == torch.bincount(places, minlength=NUM_BINS).tolist()
        for row, (low, high) in zip(rows(found, "probe", "cohort", epoch).itertuples(), [(0, 0.0037), (0.0037, 0.01), (0.01, 1.1)], strict=True):
            members = nll[((-start).exp() >= low) & ((-start).exp() < high)]
            assert row.num_tokens == len(members)
            assert not len(members) or row.probability == pytest.approx(float((-members).exp().mean()), rel=1e-9)
        hardest = rows(found, "probe", "hardest", epoch)
        assert hardest["nll"].tolist() == pytest.approx(nll.sort(descending=True).values[:3].tolist(), rel=1e-9)
    assert min(rows(found, "probe", "cohort", 0)["num_tokens"].tolist()[:2]) > 0, "the cohorts should not all be empty but one"


def probe_of(out: Path, folder: Path) -> list[int]:
    state = torch.load(out / "epoch=1.ckpt", weights_only=True)["callbacks"]["TokenProbability"]
    assert state["settings"]["probe_size"] == 7 and len(state["start_nll"]) == rows(table(out), "probe", "all", 0)["num_tokens"].item()
    ids = probe_ids(20, 7).tolist()
    assert len(set(ids)) == 7 and ids == sorted(ids)
    return ids


def test_the_hardest_tokens_are_shown_in_their_context(folder: Path, learned: tuple[Path, list[dict[str, Tensor]]]) -> None:
    out, _ = learned
    data = records(folder)
    texts = [data.encoder.tokenizer.decode(data.encoder.encode(example).input_ids) for example in data.examples("train")]
    for row in rows(table(out), "probe", "hardest", STEPS).itertuples():
        assert row.token and any(row.before + row.token + row.after in text for text in texts)


def test_watching_changes_no_weight(folder: Path, tmp_path: Path) -> None:
    dropout = {**QWEN3, "attention_dropout": 0.2}
    alone = fit(folder, Standard(), architecture=dropout)
    watched = run(folder, tmp_path, watch(), Standard(), architecture=dropout)
    assert all(torch.equal(alone[name], watched[name]) for name in alone)


def test_counts_do_not_depend_on_the_layout(folder: Path, tmp_path: Path) -> None:
    tables = []
    for size in (1, 3, 8):
        run(folder, tmp_path / str(size), watch(), batching={"micro_batch_size": size}, steps=6)
        tables.append(table(tmp_path / str(size)))
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other, rtol=1e-9)


@pytest.mark.parametrize("step", first_is_fast(3, 1, 4))
def test_a_resumed_run_has_the_table_of_one_that_never_stopped(folder: Path, tmp_path: Path, step: int) -> None:
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    options: dict[str, Any] = {"loss": TALR(scope="step"), "steps": 7, "batching": {"micro_batch_size": 3}}
    run(folder, tmp_path / "whole", watch(), **options, trainer={"callbacks": [watch(), saving], "enable_checkpointing": True})
    options["loss"] = TALR(scope="step")
    run(folder, tmp_path / "resumed", watch(), **options, ckpt_path=str(tmp_path / f"step={step}.ckpt"))
    pd.testing.assert_frame_equal(table(tmp_path / "whole"), table(tmp_path / "resumed"))


def test_a_run_that_was_not_watched_from_its_start_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1)
    fit(folder, Standard(), steps=1, trainer={"callbacks": [saving], "enable_checkpointing": True})
    with pytest.raises(ValueError, match="must watch a run from its start"):
        run(folder, tmp_path, watch(), Standard(), steps=2, ckpt_path=str(tmp_path / "step=1.ckpt"))


def test_a_run_is_not_resumed_with_another_probe(folder: Path, tmp_path: Path) -> None:
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1)
    run(folder, tmp_path, watch(), Standard(), steps=1, trainer={"callbacks": [watch(), saving], "enable_checkpointing": True})
    with pytest.raises(ValueError, match=r"TokenProbability.probe_size is 7, here 5"):
        run(folder, tmp_path, watch(probe_size=5), Standard(), steps=2, ckpt_path=str(tmp_path / "step=1.ckpt"))


def naive_groups(data: Any, part: str, base: Tensor) -> dict[str, Tensor]:
    """The members of each group among a part's supervised tokens, row by row."""
    noise = []
    for index in range(len(data.encoded[part])):
        batch = data.encoded[part][MicroBatch((index,), 1)]
        noise += [label == ord("b") for label in batch["labels"][0].tolist() if label >= 0]
    p, noisy = (-base).exp(), torch.tensor(noise)
    return {"noise": noisy, "hard": (p < 0.2) & ~noisy, "between": (p >= 0.2) & (p <= 0.95) & ~noisy, "easy": (p > 0.95) & ~noisy}


@pytest.fixture(scope="module")
def divided(folder: Path) -> Any:
    """The data with rows set aside, encoded."""
    data = noisy_records(folder)
    data.trainer = SimpleNamespace(is_global_zero=False)
    data.encode("train")
    return data


LAYOUTS = ({"micro_batch_size": 3}, {"micro_batch_tokens": 300, "packing": True})


@pytest.mark.parametrize("batching", LAYOUTS)
def test_groups_sum_to_the_supervised_tokens_of_their_set(folder: Path, tmp_path: Path, divided: Any, batching: dict[str, Any]) -> None:
    run(folder, tmp_path, watch(probe_size=100), steps=4, data=noisy_records, batching=batching, trainer={"max_epochs": 2})
    found = table(tmp_path)
    assert 0 < len(divided.encoded["held_out"]) < 20 and len(divided.encoded["held_out"]) + len(divided.encoded["train"]) == 20
    for name, part in (("probe", "train"), ("held_out", "held_out")):
        encoded = divided.encoded[part]
        for epoch in range(3):
            tokens = {group: rows(found, name, group, epoch)["num_tokens"].item() for group in (*GROUPS, "base_hard", "still_hard", "all")}
            assert sum(tokens[group] for group in GROUPS) == tokens["all"] == encoded.num_supervised.sum()
            assert tokens["noise"] == encoded.noise.sum() > 0
            assert tokens["still_hard"] <= tokens["base_hard"] == tokens["all"], "under random weights every token is hard"
            assert sum(rows(found, name, group, epoch)["gradient_share"].item() for group in GROUPS) == pytest.approx(1)
    assert rows(found, "train", "all", 1)["num_tokens"].item() == divided.encoded["train"].num_supervised.sum(), "what is set aside is not trained on"
    assert set(found[found["set"] == "held_out"]["group"]) == {"all", "bin", *GROUPS, "base_hard", "still_hard"}


def test_groups_are_those_of_a_loop_with_the_saved_weights(folder: Path, learned: tuple[Path, list[dict[str, Tensor]]]) -> None:
    out, weights = learned
    ids, found = probe_of(out, folder), table(out)
    start = torch.cat(naive_nll(folder, weights[0], ids))
    for epoch in (0, 1, STEPS):
        by_row = naive_nll(folder, weights[epoch], ids)
        nll = torch.cat(by_row)
        weight = (-nll / TEMPERATURE).exp().clamp(min=FLOOR)
        row = rows(found, "probe", "hard", epoch).iloc[0]
        assert row["num_tokens"] == len(nll) == ((-start).exp() < 0.2).sum(), "under random weights every token is hard"
        assert (row["nll"], row["base_nll"], row["weight"]) == pytest.approx([float(part.mean()) for part in (nll, start, weight)], rel=1e-9)
        assert row["gradient_share"] == pytest.approx(1)
        still = rows(found, "probe", "still_hard", epoch).iloc[0]
        assert still["num_tokens"] == ((-nll).exp() < 0.2).sum()
        means = sorted(float(part.mean()) for part in by_row)
        assert rows(found, "probe", "all", epoch)["sequence_median"].item() == pytest.approx(means[3], rel=1e-9)
    assert 0 < still["num_tokens"] < row["num_tokens"]


BASE_WEIGHT = {"prift": (PriFT, lambda nll, base: (-base).exp()), "asft": (ASFT, lambda nll, base: (-nll).exp())}


@pytest.mark.parametrize("name", BASE_WEIGHT)
def test_weights_are_those_of_the_loss_also_where_it_reads_the_base_model(folder: Path, tmp_path: Path, divided: Any, name: str) -> None:
    loss, weight = BASE_WEIGHT[name]
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = {"callbacks": [watch(probe_size=100), saving], "enable_checkpointing": True, "default_root_dir": str(tmp_path)}
    fit(folder, loss(), steps=4, data=noisy_records, trainer=trainer)
    state = torch.load(tmp_path / "epoch=2.ckpt", weights_only=True)
    strip = "backbone.model."
    now = {name.removeprefix(strip): value for name, value in state["state_dict"].items() if name.startswith(strip)}
    everything = [example.messages for example in records(folder).examples("train")]
    ids = [everything.index(example.messages) for example in divided.kept["held_out"]]
    base, nll = state["callbacks"]["TokenProbability"]["held_out_nll"], torch.cat(naive_nll(folder, now, ids))
    for epoch, current in ((0, base), (2, nll)):
        for group, members in naive_groups(divided, "held_out", base).items():
            row = rows(table(tmp_path), "held_out", group, epoch).iloc[0]
            assert row["num_tokens"] == members.sum()
            if members.any():
                assert row["nll"] == pytest.approx(float(current[members].mean()), rel=1e-6)
                assert row["weight"] == pytest.approx(float(weight(current, base)[members].mean()), rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        TALR,
        FLOW,
        ASFT,
        *(
            pytest.param(loss, marks=pytest.mark.slow)
            for loss in (Standard, lambda: TALR(scope="step"), lambda: TALR(scope="ranks", normalize=True), lambda: Permuted(TALR()), EAFT)
        ),
    ],
    ids=["talr", "flow", "asft", "standard", "step", "ranks", "permuted", "eaft"],
)
def test_grouping_changes_no_weight(folder: Path, tmp_path: Path, loss: Any) -> None:
    alone = fit(folder, loss(), data=noisy_records, batching={"micro_batch_size": 3})
    watched = run(folder, tmp_path, watch(), loss(), data=noisy_records, batching={"micro_batch_size": 3})
    assert all(torch.equal(alone[name], watched[name]) for name in alone)


class Drawing(LossStrategy):
    """Weights that are drawn."""

    def weights(self, stats: Any) -> Tensor:
        return torch.rand_like(stats.nll)


@pytest.mark.slow
def test_a_loss_that_draws_its_weights_trains_as_if_it_were_not_watched(folder: Path, tmp_path: Path) -> None:
    alone = fit(folder, Drawing())
    watched = run(folder, tmp_path, watch(), Drawing())
    assert all(torch.equal(alone[name], watched[name]) for name in alone)


@pytest.mark.parametrize("step", first_is_fast(2, 1, 3))
def test_a_resumed_run_has_the_groups_of_one_that_never_stopped(folder: Path, tmp_path: Path, step: int) -> None:
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    options: dict[str, Any] = {"steps": 5, "batching": {"micro_batch_size": 3}, "data": noisy_records}
    run(folder, tmp_path / "whole", watch(), TALR(scope="step"), **options, trainer={"callbacks": [watch(), saving], "enable_checkpointing": True})
    run(folder, tmp_path / "resumed", watch(), TALR(scope="step"), **options, ckpt_path=str(tmp_path / f"step={step}.ckpt"))
    pd.testing.assert_frame_equal(table(tmp_path / "whole"), table(tmp_path / "resumed"))


def test_a_run_is_not_resumed_with_other_rows_set_aside(folder: Path, tmp_path: Path) -> None:
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1)
    fit(folder, Standard(), steps=1, data=noisy_records, trainer={"callbacks": [saving], "enable_checkpointing": True})
    for share, shown in ((0.5, "0.5"), (0.0, "null")):
        with pytest.raises(ValueError, match=rf"its data.held_out is 0.4, here {shown}[;,]"):
            fit(folder, Standard(), steps=2, data=partial(noisy_records, held_out=share), ckpt_path=str(tmp_path / "step=1.ckpt"))


def test_without_rows_set_aside_there_is_no_such_set(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, watch(), steps=3)
    assert set(table(tmp_path)["set"]) == {"train", "probe"}
    assert rows(table(tmp_path), "probe", "noise", 1)["num_tokens"].item() == 0


def test_tensorboard_has_every_view(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, watch(), steps=6, trainer={"logger": TensorBoardLogger(tmp_path, name="", version="")})
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "histograms": 0, "images": 0}).Reload()
    found = table(tmp_path)
    for name, epochs in (("train", [1, 2]), ("probe", [0, 1, 2])):
        histograms = events.Histograms(f"probability/{name}")
        assert [event.step for event in histograms] == epochs
        for event in histograms:
            assert event.histogram_value.bucket == rows(found, name, "bin", event.step)["num_tokens"].tolist()
    assert {"train/share_above_0.2", "probe/share_above_0.2", "train/share_at_floor", "train/mean_weight", "probe/nll"} <= set(events.Tags()["scalars"])
    assert "cohort/0-0.0037" in events.Tags()["scalars"]
    assert set(events.Tags()["images"]) == {"curriculum/cohorts", "curriculum/loss_by_probability"}
    assert {"hardest_tokens/text_summary", "custom_scalars__config__"} <= set(events.Tags()["tensors"])
    assert b"Curriculum" in events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]


def test_another_logger_gets_the_scalars_and_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, tmp_path, watch(), steps=3, trainer={"logger": CSVLogger(tmp_path, name="", version="")})
    assert capsys.readouterr().err.count("TokenProbability: CSVLogger gets numbers only, no histograms, figures and tables") == 1
    logged = pd.read_csv(tmp_path / "metrics.csv")
    assert logged["probe/nll"].dropna().tolist() == pytest.approx(table(tmp_path).query("set == 'probe' and group == 'all'")["nll"].tolist())


def test_a_loss_without_a_floor_has_no_share_at_it(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, watch(), Standard(), steps=3)
    assert table(tmp_path)["share_at_floor"].isna().all()
    assert rows(table(tmp_path), "train", "all", 1)["weight"].item() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probe_size": 0}, "`probe_size` must be at least 1, got 0"),
        ({"num_bins": 0}, "`num_bins` must be at least 1, got 0"),
        ({"num_hardest": -1}, "`num_hardest` must be at least 0, got -1"),
        ({"threshold": 1.0}, r"`threshold` must lie in \(0, 1\), got 1.0"),
        ({"threshold": math.nan}, r"`threshold` must lie in \(0, 1\), got nan"),
        ({"cohort_edges": [0.5, 0.2]}, "`cohort_edges` must rise"),
        ({"cohort_edges": [0.0, 0.2]}, "`cohort_edges` must rise and lie between 0 and 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenProbability(**options)
