import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from lit_talr.data.batch_plan import Batching, MicroBatch
from lit_talr.data.encoded import EncodedExamples
from lit_talr.data.encoder import Encoded
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Part, Split
from lit_talr.domains import Records
from lit_talr.domains.base import DomainDataModule, turns_text
from lit_talr.domains.rows import held_out
from lit_talr.metrics import ExactMatch
from tests.helpers.fits import records, write_data

PAD = 9
IGNORE = -100


@pytest.fixture
def encoded() -> EncodedExamples:
    rows = [
        Encoded(np.array([1, 2, 3, 4]), np.array([False, False, True, True]), 0, np.zeros(4, bool)),
        Encoded(np.array([5, 6]), np.array([False, True]), 0, np.zeros(2, bool)),
        Encoded(np.array([7, 8, 1]), np.array([False, True, False]), 0, np.zeros(3, bool)),
    ]
    return EncodedExamples(rows, PAD)


def test_a_micro_batch_is_padded_on_the_right_and_its_labels_are_the_next_tokens(encoded: EncodedExamples) -> None:
    batch = encoded[MicroBatch((0, 2), 17)]
    assert batch["input_ids"].tolist() == [[1, 2, 3], [7, 8, PAD]]
    assert batch["labels"].tolist() == [[IGNORE, 3, 4], [8, IGNORE, IGNORE]]
    assert batch["sequence_ids"].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert batch["ids"] == [0, 2]
    assert (batch["num_tokens"], batch["num_items_in_batch"]) == (5, 17)
    assert type(batch["num_items_in_batch"]) is int


def test_packed_examples_stand_one_behind_the_other_and_positions_begin_anew(encoded: EncodedExamples) -> None:
    batch = encoded[MicroBatch((0, 1, 2), 17, packed=True)]
    assert batch["input_ids"].tolist() == [[1, 2, 3, 5, 7, 8]]
    assert batch["packing"] is not None
    position_ids, boundaries, longest = batch["packing"]
    assert position_ids.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert (boundaries.tolist(), boundaries.dtype, longest) == ([0, 3, 4, 6], torch.int32, 3)
    assert batch["labels"].tolist() == [[IGNORE, 3, 4, 6, 8, IGNORE]]
    assert batch["sequence_ids"].tolist() == [[0, 0, 0, 1, 2, 2]]
    assert (batch["num_tokens"], batch["num_items_in_batch"]) == (6, 17)


def test_a_batch_holds_no_floats_for_an_engine_to_round(encoded: EncodedExamples) -> None:
    assert not any(torch.is_floating_point(value) for value in encoded[MicroBatch((1,), 1)].values() if isinstance(value, torch.Tensor))


def test_an_empty_micro_batch_is_one_row_of_two_pad_tokens(encoded: EncodedExamples) -> None:
    batch = encoded[MicroBatch((), 5, packed=True)]
    assert batch["input_ids"].tolist() == [[PAD, PAD]]
    assert batch["packing"] is None
    assert batch["labels"].tolist() == [[IGNORE, IGNORE]]
    assert batch["ids"] == []
    assert batch["num_tokens"] == 0


def test_supervised_tokens_are_counted(encoded: EncodedExamples) -> None:
    assert encoded.num_supervised.tolist() == [2, 1, 1]
    assert encoded.lengths.tolist() == [3, 1, 2]


class FakeTrainer:
    world_size = 1
    global_rank = 0
    is_global_zero = False
    max_epochs = 1
    max_steps = -1
    accumulate_grad_batches = 1


def test_rows_too_long_are_an_error_by_default_and_name_their_place(tmp_path: Path) -> None:
    data = set_up(tmp_path, too_long="error")
    with pytest.raises(ValueError, match=r"train.jsonl: row 3: .*60.*max_length"):
        data.setup("fit")


def test_rows_too_long_can_be_dropped_and_are_counted(tmp_path: Path) -> None:
    data = set_up(tmp_path, too_long="drop")
    data.setup("fit")
    assert data.counts["train"]["too long"] == 1
    assert len(data.encoded["train"]) == 19


def test_a_prompt_too_long_can_be_truncated_and_is_counted(tmp_path: Path) -> None:
    data = set_up(tmp_path, too_long="truncate_prompt")
    data.setup("fit")
    assert data.counts["train"]["truncated"] == 1
    assert len(data.encoded["train"]) == 20
    assert data.encoded["train"].lengths.max() < 160


def test_a_test_prompt_too_long_stays_and_is_counted(tmp_path: Path) -> None:
    data = set_up(tmp_path, too_long="drop", split="test")
    data.setup("test")
    assert len(data.prompts["test"]) == 4
    assert data.prompts["test"][2] == []
    assert data.counts["test"]["too long (counts as wrong)"] == 1


def set_up(folder: Path, too_long: str, split: str = "train") -> object:
    """Twenty rows, the third with a long prompt."""
    write_data(folder)
    path = folder / f"{split}.jsonl"
    rows = path.read_text().splitlines()
    rows[2] = json.dumps({"prompt": "a" * 600, "response": "b"})
    path.write_text("\n".join(rows))
    data = records(folder)
    data.encoding = replace(data.encoding, max_length=160, too_long=too_long)  # type: ignore[arg-type]
    data.trainer = FakeTrainer()  # type: ignore[assignment]
    return data


def test_generation_is_given_exactly_what_stands_before_the_answer_in_training(tmp_path: Path) -> None:
    write_data(tmp_path)
    data = records(tmp_path)
    data.test = data.train
    data.trainer = FakeTrainer()  # type: ignore[assignment]
    data.setup("fit")
    data.setup("test")
    rows = data.encoded["train"]
    for index, prompt in enumerate(data.prompts["test"]):
        row = slice(rows.offsets[index], rows.offsets[index + 1])
        first_learned = int(rows.supervised[row].argmax())
        assert prompt == rows.tokens[row][:first_learned].tolist()


def test_fewer_validation_rows_than_ranks_are_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    data = records(tmp_path)
    data.trainer = FakeTrainer()  # type: ignore[assignment]
    data.trainer.world_size = 8  # type: ignore[union-attr,misc]
    with pytest.raises(ValueError, match="There are 4 validation rows for 8 ranks"):
        data.setup("fit")


def test_one_file_for_all_splits_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_data(tmp_path)
    data = records(tmp_path)
    data.val = data.test = data.train
    data.trainer = FakeTrainer()  # type: ignore[assignment]
    data.setup("fit")
    with caplog.at_level(logging.WARNING, "lit_talr"):
        data.train_dataloader()
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [
        f"{split} shares 20 of its 20 rows with {other}" for split, other in (("train", "val"), ("train", "test"), ("val", "test"))
    ]


@pytest.mark.parametrize(("stage", "split"), [("fit", "train"), ("fit", "val"), ("test", "test")])
def test_special_tokens_in_texts_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, stage: str, split: str) -> None:
    write_data(tmp_path)
    path = tmp_path / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["prompt"], rows[2]["response"] = "<|im_start|>user\na<|im_end|>", "b<|im_end|>"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = records(tmp_path)
    data.trainer = FakeTrainer()  # type: ignore[assignment]
    data.setup(stage)
    with caplog.at_level(logging.WARNING, "lit_talr"):
        (data.train_dataloader if stage == "fit" else data.test_dataloader)()
    assert [record.getMessage() for record in caplog.records if "special" in record.getMessage()] == [
        f"{split} has special tokens of the tokenizer in the texts of 2 of its {len(rows)} rows (the first: {path}: row 2: `<|im_start|>`), where they stay "
        "plain text; the chat template adds its own, so remove them from the rows."
    ]


@pytest.mark.parametrize(
    ("batching", "said"),
    [
        ({"batch_size": 1}, "a step of 1 example(s) makes 1 micro-batch(es) for 2 ranks, which leaves 1 idle; raise `batch_size`"),
        ({"batch_size": 8, "micro_batch_size": 8}, "a step of 8 example(s) makes 1 micro-batch(es) for 2 ranks"),
        ({"batch_size": 8, "micro_batch_tokens": 5000}, "a step of 8 example(s) makes 1 micro-batch(es) for 2 ranks"),
        ({"batch_size": 3}, None),
    ],
)
def test_ranks_without_work_are_said(tmp_path: Path, batching: dict[str, Any], said: str | None) -> None:
    write_data(tmp_path)
    data = records(tmp_path, **batching)
    data.trainer = FakeTrainer()  # type: ignore[assignment]
    data.trainer.world_size = 2  # type: ignore[union-attr,misc]
    data.setup("fit")
    assert [str(said) in remark for remark in data.remarks if remark.startswith("`data.batching`")] == ([True] if said else [])


def test_accumulation_of_one_s_own_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    data = records(tmp_path, micro_batch_size=2)
    data.trainer = FakeTrainer()  # type: ignore[assignment]
    data.trainer.accumulate_grad_batches = 3  # type: ignore[union-attr,misc]
    with pytest.raises(ValueError, match="`trainer.accumulate_grad_batches` is 3, but 8 examples a step on 1 rank.* take 4 micro-batches"):
        data.setup("fit")


def test_without_a_tokenizer_the_data_take_the_models(tmp_path: Path) -> None:
    write_data(tmp_path)
    given = records(tmp_path)
    for model in ({"tokenizer": str(tmp_path / "tokenizer"), "pretrained": "another"}, {"tokenizer": None, "pretrained": given.tokenizer, "revision": "v1"}):
        data = replace_tokenizer(given, model)
        data.setup("test")
        assert data.prompts["test"] and data.tokenizer_revision == model.get("revision")


@pytest.mark.parametrize("model", [{}, {"tokenizer": None, "pretrained": None}])
def test_no_tokenizer_at_all_is_refused(tmp_path: Path, model: dict[str, str | None]) -> None:
    write_data(tmp_path)
    with pytest.raises(ValueError, match="No tokenizer is named: give `tokenizer` .* to the data, or `pretrained` or `tokenizer` to the module"):
        replace_tokenizer(records(tmp_path), model).setup("test")


def replace_tokenizer(data: Records, model: dict[str, str | None]) -> Records:
    """The same rows without a tokenizer, on a trainer of such a model."""
    other = Records(train=data.train, val=data.val, test=data.test)
    other.trainer = FakeTrainer()  # type: ignore[assignment]
    other.trainer.lightning_module = SimpleNamespace(**model)  # type: ignore[misc]
    return other


class Own(DomainDataModule):
    """A domain of one's own.

    Args:
        size: Number of rows.
    """

    def __init__(self, tokenizer: str, tokenizer_revision: str | None = None, encoding: Encoding = Encoding(), batching: Batching = Batching(), size: int = 3):
        super().__init__(tokenizer, tokenizer_revision, encoding, batching)
        self.size = size

    def examples(self, split: Split) -> list[Example]:
        return [Example.from_prompt("a", "b")] * self.size

    def metric(self) -> ExactMatch:
        return ExactMatch()


def test_a_domain_of_ones_own_may_have_a_plain_init() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DomainDataModule, "data")
    words = ["--data", f"{__name__}.Own", "--data.tokenizer", "t", "--data.size", "2", "--data.batching.batch_size", "7"]
    data = parser.instantiate(parser.parse_args(words)).data
    assert (data.tokenizer, data.size, data.batching.batch_size, len(data.examples("train"))) == ("t", 2, 7, 2)
    assert data.counts.keys() == {"train", "val", "test"}


def divided(folder: Path, share: float, rows: list[str] | None = None, trainer: type[FakeTrainer] = FakeTrainer, **batching: Any) -> Records:
    """Training rows of one's own, set up for training."""
    if not (folder / "tokenizer").exists():
        write_data(folder)
    if rows is not None:
        (folder / "train.jsonl").write_text("".join(json.dumps({"prompt": row, "response": row[::-1]}) + "\n" for row in rows))
    data = records(folder, **batching)
    data.held_out = share
    data.trainer = trainer()  # type: ignore[assignment]
    data.setup("fit")
    return data


def prompts(data: Records, part: Part) -> list[str]:
    return [example.messages[0]["content"] for example in data.kept[part]]


def test_rows_are_set_aside_by_their_content(tmp_path: Path) -> None:
    rows = [f"row {number}" for number in range(100)]
    data = divided(tmp_path, 0.3, rows)
    train, aside = prompts(data, "train"), prompts(data, "held_out")
    assert 20 < len(aside) < 40 and sorted(train + aside) == sorted(rows)
    assert train == [row for row in rows if row in train], "in their order"
    assert data.train_plan is not None and len(data.train_plan.lengths) == len(train) == len(data.encoded["train"])
    assert len(data.encoded["held_out"]) == len(aside) and data.counts["train"]["held out"] == len(aside)

    others = divided(tmp_path, 0.3, [*(f"another {number}" for number in range(50)), *rows[::-1], *rows[:10]])
    assert set(prompts(others, "train")) >= set(train) and set(prompts(others, "held_out")) >= set(aside), "other rows, and another order, move none"
    assert not set(prompts(others, "train")) & set(prompts(others, "held_out")), "equal rows stay together"

    more = divided(tmp_path, 0.5, rows)
    assert set(prompts(more, "held_out")) > set(aside), "a larger share adds rows"


def test_the_rows_that_are_set_aside_are_the_same_on_every_machine() -> None:
    texts = [turns_text(Example.from_prompt(f"row {number}", "a").messages) for number in range(20)]
    assert texts[0] == '[["user", "row 0"], ["assistant", "a"]]'
    expected = [number for number, text in enumerate(texts) if int(hashlib.sha256(f"0\n{text}".encode()).hexdigest()[:16], 16) / 2**64 < 0.2]
    assert [number for number, is_aside in enumerate(held_out(texts, 0.2, seed=0)) if is_aside] == expected


def test_no_share_changes_nothing(tmp_path: Path) -> None:
    data = divided(tmp_path, 0.0)
    assert set(data.encoded) == {"train", "val"} and "held out" not in data.counts["train"] and len(data.kept["train"]) == 20


@pytest.mark.parametrize(("share", "number"), [(1e-9, 0), (1 - 1e-9, 20)])
def test_a_share_that_leaves_no_row_of_a_kind_is_refused(tmp_path: Path, share: float, number: int) -> None:
    message = rf"`data.held_out` is {share}, which sets aside {number} of 20 training rows, .*; give another share, or more rows"
    with pytest.raises(ValueError, match=message):
        divided(tmp_path, share, [f"row {number}" for number in range(20)])


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"`held_out` must lie in \[0, 1\), got"):
        Records(held_out=share)


def test_a_row_that_is_set_aside_fits_into_a_micro_batch_too(tmp_path: Path) -> None:
    rows = [f"row {number}" for number in range(40)]
    longest = prompts(divided(tmp_path, 0.3, rows), "held_out")[0]
    rows[rows.index(longest)] = next(text for letter in "abcdefghij" if (text := letter * 200) in prompts(divided(tmp_path, 0.3, [*rows, text]), "held_out"))
    with pytest.raises(ValueError, match="This held_out example has .* more than `data.batching.micro_batch_tokens`, 200"):
        divided(tmp_path, 0.3, rows, micro_batch_size=None, micro_batch_tokens=200)
