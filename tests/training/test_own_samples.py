"""The base model's own samples among a domain's rows: filtered, sampled once, the same when resumed, refused where there are none or too few."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

import lit_talr.training.own_samples
from lit_talr.domains import Records, Replay
from lit_talr.losses import Standard
from lit_talr.training.base_samples import NO_RESPONSE, Sample
from lit_talr.training.own_samples import OwnSamples, left_out
from lit_talr.utils.files import read_json_lines
from tests.helpers.fits import QWEN3, fit, records, write_data

SMALL: dict[str, Any] = {"num_samples": 24, "prompt_tokens": 24, "response_tokens": 24, "most_confident": 1.0}


def write_base(folder: Path) -> None:
    """Rows, and a base model whose generation settings end responses soon."""
    write_data(folder)
    (folder / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, *range(8)]}))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder to write into; runs and ``.cache`` are in it."""
    write_base(tmp_path)
    return tmp_path


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the samplings."""
    counted: list[int] = []
    sample_conversations = lit_talr.training.own_samples.sample_conversations

    def counting(*arguments: Any) -> Any:
        counted.append(arguments[4])
        return sample_conversations(*arguments)

    monkeypatch.setattr(lit_talr.training.own_samples, "sample_conversations", counting)
    return counted


def run(
    folder: Path,
    name: str = "run",
    steps: int = 2,
    share: float = 0.1,
    trainer: dict[str, Any] | None = None,
    given: bool = True,
    ckpt_path: str | None = None,
    architecture: Any = None,
    **options: Any,
) -> Any:
    """Fits with replay; the prompts are the training rows' unless they are sampled."""
    general: Callable[..., OwnSamples] = partial(OwnSamples, **{**SMALL, "prompts_of": prompts(folder) if given else None, **options})

    def data(folder: Path, **batching: Any) -> Records:
        plain = records(folder, **batching)
        return Records(plain.tokenizer, batching=plain.batching, train=plain.train, val=plain.val, test=plain.test, replay=Replay(general, share))

    return fit(
        folder,
        Standard(),
        steps,
        data=data,
        ckpt_path=ckpt_path,
        architecture=architecture,
        trainer={"default_root_dir": str(folder / name), **(trainer or {})},
    )


def prompts(folder: Path) -> Any:
    return partial(Records, train=str(folder / "train.jsonl"))


def rows(folder: Path, name: str = "run") -> list[dict[str, Any]]:
    return read_json_lines(folder / name / "own_samples.jsonl")


def drawn(confidence: float, num_tokens: int = 9, repetition: float = 0.0, fault: str | None = None) -> Sample:
    return Sample([], fault, num_tokens, repetition, confidence)


def test_samples_are_left_out_by_each_rule_in_turn() -> None:
    samples = [drawn(-1.0), drawn(-9.0, 2), drawn(-0.5, repetition=0.4), drawn(0.0, fault=NO_RESPONSE), drawn(-0.7), drawn(-0.7), drawn(-0.6)]
    assert left_out(samples, 3, 0.3, 0.5) == ["less confident", "short", "repetitive", NO_RESPONSE, None, "less confident", None]
    assert left_out(samples, 2, 0.4, 1.0) == [None, None, None, NO_RESPONSE, None, None, None]
    assert left_out(samples, 3, 0.3, 0.01).count(None) == 1, "a share is rounded up"


@pytest.mark.slow
def test_samples_are_rows_of_the_run_and_are_drawn_once(own: Path, sampled: list[int]) -> None:
    weights = run(own)
    first = rows(own)
    assert sampled == [24] and len(first) == 24
    assert {row["left_out"] for row in first} >= {None, NO_RESPONSE}
    asked = {row["prompt"] for row in read_json_lines(own / "train.jsonl")}
    assert {row["messages"][0]["content"] for row in first} == asked, "all prompts, before any again"
    again = run(own, "second")
    assert sampled == [24] and rows(own, "second") == first and all(torch.equal(weights[name], again[name]) for name in weights)
    run(own, "filtered", max_repetition=0.0, most_confident=0.9)
    assert sampled == [24] and [row["messages"] for row in rows(own, "filtered")] == [row["messages"] for row in first]
    for number, options in enumerate([{"seed": 1}, {"temperature": 0.5}, {"prompts_of": partial(Records, train=str(own / "val.jsonl"))}], start=2):
        run(own, "other", steps=1, **options)
        assert len(sampled) == number and rows(own, "other") != first


def test_without_prompts_both_turns_are_sampled(own: Path) -> None:
    run(own, given=False)
    users = [row["messages"][0]["content"] for row in rows(own) if row["left_out"] is None]
    assert len(set(users)) == len(users) > 0 and not {row["prompt"] for row in read_json_lines(own / "train.jsonl")} & set(users)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_rows_without_the_cache(own: Path, sampled: list[int]) -> None:
    keep = ModelCheckpoint(dirpath=own / "kept", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole = run(own, steps=3, trainer={"callbacks": [keep], "enable_checkpointing": True})
    first = rows(own)
    shutil.rmtree(own / ".cache")
    resumed = run(own, steps=3, ckpt_path=str(own / "kept" / "step=1.ckpt"))
    assert sampled == [24] and rows(own) == first
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_with_too_few_samples_is_refused(own: Path) -> None:
    with pytest.raises(ValueError, match=r"An epoch takes \d+ of the base model's own samples, and \d+ of 24 are left \(.*with an unfinished response.*raise"):
        run(own, share=0.9)
    with pytest.raises(
        ValueError, match=r"An epoch takes 1 .*, and 0 of 24 are left \(.*short\); raise `data.replay.general.num_samples`, loosen a filter, or"
    ):
        run(own, least_tokens=500)


def test_where_there_is_no_whole_base_model_samples_are_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = OwnSamples(str(own / "tokenizer"), **SMALL)
    data.trainer = Trainer(accelerator="cpu", logger=False)
    with pytest.raises(ValueError, match="`OwnSamples` are training rows; give them to a domain, as `data.replay.general`"):
        data.examples("val")
    with pytest.raises(ValueError, match="a run from random weights has none; give `model.pretrained`, or other rows to replay"):
        run(own, architecture=QWEN3)
    monkeypatch.setattr(lit_talr.training.own_samples, "shards_weights", lambda strategy: True)
    with pytest.raises(ValueError, match="not sampled where every weight is sharded .*; start the same line once with configs/strategy/zero2.yaml"):
        run(own)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        ({"least_tokens": 0}, "`least_tokens` must be at least 1"),
        ({"max_repetition": 1.1}, r"`max_repetition` must lie in \[0, 1\], got 1.1; 1 leaves none out"),
        ({"most_confident": 0.0}, r"`most_confident` must lie in \(0, 1\], got 0.0; 1 keeps all"),
        ({"temperature": -1.0}, "`generation.temperature` must be 0 .greedy., or at least 0.001 and finite, got -1.0"),
        ({"prompts_of": partial(Records, held_out=0.5)}, "`data.replay.general.prompts_of` takes no `held_out`, got 0.5"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        OwnSamples("lit_talr/lab/base", **options)
