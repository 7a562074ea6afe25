"""Base of all domains: examples are tokenised once, their supervised tokens counted exactly, and a plan assigns them to micro-batches."""

import json
import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset

from lit_talr.data.batch_plan import Batching, BatchPlan, arrange
from lit_talr.data.encoded import EncodedExamples, Identity
from lit_talr.data.encoder import ChatEncoder, Encoded, TooLong
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Message, Part, Split, place
from lit_talr.data.mixture import Mixture
from lit_talr.data.token_cache import MANY, encode_many, encode_row
from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.domains.rows import held_out
from lit_talr.metrics.base import DomainMetric
from lit_talr.utils.errors import check_in
from lit_talr.utils.progress import track
from lit_talr.utils.score import Items, digest

logger = logging.getLogger(__name__)
LEARNED = "the model is scored on rows that it was trained on"
SHARED = (("train", "val", LEARNED), ("train", "test", LEARNED), ("val", "test", "what `val/nll` chooses is then partly chosen by the test rows"))
"""Splits that should not share rows, and the harm if they do."""
NO_VALIDATION = "There are no validation rows, so `val/nll` is not measured; `data.val` gives a file of them, `data.validation` a share of the training rows."
TEST_WINDOW = 16  # forward passes whose test prompts are sorted by length together


@dataclass(frozen=True)
class Replay:
    """General rows among a domain's training rows: what is still trained is not forgotten.

    Every epoch has all rows of the domain and as many general rows as give these ``share`` of the supervised tokens, spread evenly over the steps. Where
    there are more, each epoch draws others. An optimizer step has ``batching.batch_size`` rows of both kinds together, and the loss treats them alike.
    Validation, test and score are the domain's alone.
    Replayed rows are trained on: a general suite from the same source measures how well they are remembered, not other abilities.

    Args:
        general: The data module whose training rows are replayed; it takes no ``tokenizer``, ``encoding`` and ``batching`` of its own.
        share: Share of an epoch's supervised tokens that belongs to the general rows, in (0, 1).

    Raises:
        ValueError: For a share out of range.
    """

    general: "Callable[[str | None, str | None, Encoding, Batching], DomainDataModule]"
    share: float = 0.1

    def __post_init__(self) -> None:
        check_in("replay.share", self.share, "(0, 1)", "without general rows leave `replay` out")


@dataclass(eq=False, repr=False)
class DomainDataModule(LightningDataModule):
    """A domain: where its examples come from and how responses are scored. A new domain implements ``examples`` and ``metric``.

    Args:
        tokenizer: Folder or hub name; by default the tokenizer of the model.
        tokenizer_revision: Commit, tag or branch of a hub tokenizer.
        encoding: How examples become tokens.
        batching: How examples become optimizer steps.
        held_out: Share of the training rows that is set aside and never trained on, in [0, 1): ``TokenProbability`` scores them. The hash of a row's turns
            decides: equal rows stay together, and another row moves none. Rows that are replayed are not set aside.
        replay: General rows that are mixed in, and their share of the supervised tokens.

    Raises:
        ValueError: For a missing or unusable tokenizer, a row that cannot be encoded (by file and row), fewer validation rows than ranks, and a share to set
            aside that is out of range or leaves no row to train on, or none aside; for general rows with ``held_out`` or ``replay`` of their own, and a
            general row that is set aside in the domain.
    """

    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    encoding: Encoding = Encoding()
    batching: Batching = Batching()
    held_out: float = field(default=0.0, kw_only=True)
    replay: Replay | None = field(default=None, kw_only=True)
    trainer: Trainer = field(init=False)  # set by Lightning before ``setup``

    source_name = ""
    """The data set's name, for reports and model cards."""
    license = "not stated"
    without_shared = "remove them from one of the two"
    """The way out where splits share rows."""

    def __post_init__(self) -> None:
        super().__init__()
        check_in("held_out", self.held_out, "[0, 1)", "it is the share of the training rows that is never trained on")
        self.general = self.replay and self.replay.general(self.tokenizer, self.tokenizer_revision, self.encoding, self.batching)
        if self.general:
            check_plain("data.replay.general", self.general)
        self.train_plan: BatchPlan | None = None
        self.val_plan: BatchPlan | None = None
        self.mixture: Mixture | None = None  # how training rows of two kinds share an epoch
        self.kept: dict[Part, Sequence[Example]] = {}
        self.encoded: dict[Part, EncodedExamples] = {}
        self.prompts: dict[Split, list[list[int]]] = {}
        self.remarks: list[str] = []  # for the log, once nothing refuses the run any more
        self.unread: dict[Split, list[str]] = {"train": [], "val": [], "test": []}  # those on what of the rows is not read
        self.counts: dict[Split, Counter[str]] = {"train": Counter(), "val": Counter(), "test": Counter()}

    @abstractmethod
    def examples(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split, in a fixed order. Rows that are left out on purpose are counted in ``self.counts[split]`` under the reason."""

    @abstractmethod
    def metric(self) -> DomainMetric:
        """Makes a new metric for the domain's responses."""

    @property
    def sources(self) -> "list[DomainDataModule]":
        """The data modules whose rows are trained on."""
        return [self, self.general] if self.general else [self]

    @cached_property
    def encoder(self) -> ChatEncoder:
        return ChatEncoder(load_tokenizer(self.tokenizer_name, self.tokenizer_revision), self.encoding)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name; where none was given, that of the trainer's model, with its revision.

        Raises:
            ValueError: If neither names one.
        """
        if not self.tokenizer and self.trainer:
            model = self.trainer.lightning_module
            self.tokenizer = getattr(model, "tokenizer", None)
            if not self.tokenizer:
                self.tokenizer, self.tokenizer_revision = getattr(model, "pretrained", None), getattr(model, "revision", None)
        if not self.tokenizer:
            raise ValueError("No tokenizer is named: give `tokenizer` (a folder or hub name) to the data, or `pretrained` or `tokenizer` to the module.")
        return self.tokenizer

    @property
    def has_validation(self) -> bool:
        """Whether there are validation rows; without any, a fit never validates."""
        return True

    def setup(self, stage: str) -> None:
        self.encoder  # noqa: B018  an unusable tokenizer shows before any row is read
        if stage == "fit":
            self.encode("train")
            self.set_up_training_plan()
            if "held_out" in self.encoded:
                self.plan("held_out")  # refuses a row that no micro-batch can hold
        if stage == "fit" and not self.has_validation:
            self.trainer.limit_val_batches = 0
        elif stage in ("fit", "validate"):
            self.encode("val")
            num_rows, num_ranks = len(self.encoded["val"]), self.trainer.world_size
            self.val_plan = self.plan("val")
            if num_rows < num_ranks:
                raise ValueError(f"There are {num_rows} validation rows for {num_ranks} ranks; give at least one row for each rank, or fewer ranks.")
        if stage == "fit":
            self.remarks = [*self.unlearned("train"), *self.unlearned("val"), *self.shared_rows(), *self.idle_ranks()]
            if not self.has_validation:
                self.remarks.append(NO_VALIDATION)
        if stage == "test":
            self.encode_prompts("test")
            self.remarks = self.unlearned("test")

    def unlearned(self, split: Split) -> list[str]:
        """Sentences about what the rows of a split hold and the model does not get as it is written there: what is not read, and special tokens as text."""
        sentences = [sentence for source in self.sources for sentence in source.unread[split]]
        if found := [(example, token) for example in self.kept.get(split, ()) if (token := self.encoder.special_in(example))]:
            example, token = found[0]
            sentences.append(
                f"{split} has special tokens of the tokenizer in the texts of {len(found):,} of its {len(self.kept[split]):,} rows (the first: {place(example)}"
                f"`{token}`), where they stay plain text; the chat template adds its own, so remove them from the rows."
            )
        return sentences

    def say_remarks(self) -> None:
        for remark in self.remarks:
            rank_zero_only(logger.warning)(remark)

    def test_examples(self) -> Sequence[Example]:
        """The test rows, where they can be compared with the training rows; a domain that leaves shared rows out itself has none to compare."""
        return ()

    def shared_rows(self) -> list[str]:
        """Counts the training rows that are also validation or test rows, and the validation rows that are also test rows, in sentences."""
        rows = {"train": self.kept["train"], "val": self.kept.get("val", ()), "test": self.test_examples()}
        counts = {split: Counter(map(row_hash, examples)) for split, examples in rows.items()}
        sentences = []
        for split, other, harm in SHARED:
            if number := sum(count for key, count in counts[split].items() if key in counts[other]):
                sentences.append(f"{split} shares {number:,} of its {len(rows[split]):,} rows with {other}: {harm}; {self.without_shared}.")
        return sentences

    def idle_ranks(self) -> list[str]:
        """A sentence where a step has work for some ranks only."""
        assert self.train_plan is not None
        number, num_ranks = len(arrange(self.train_plan.step_ids(0), self.train_plan.lengths, self.batching)), self.trainer.world_size
        if number >= num_ranks:
            return []
        return [
            f"`data.batching`: a step of {len(self.train_plan.step_ids(0))} example(s) makes {number} micro-batch(es) for {num_ranks} ranks, which "
            f"leaves {num_ranks - number} idle; raise `batch_size`, make micro-batches smaller, or start fewer ranks."
        ]

    def set_up_training_plan(self) -> None:
        """Plans the optimizer steps and sets the trainer's number of micro-batches per step."""
        self.train_plan = self.plan("train", shuffle=True)
        given, needed = self.trainer.accumulate_grad_batches, self.train_plan.accumulate
        if given not in (1, needed):
            raise ValueError(
                f"`trainer.accumulate_grad_batches` is {given}, but {self.batching.batch_size} examples a step on {self.trainer.world_size} rank(s) "
                f"take {needed} micro-batches; leave it out, it follows from `data.batching`."
            )
        self.trainer.accumulate_grad_batches = needed

    def plan(self, split: Part, shuffle: bool = False) -> BatchPlan:
        """Plans the micro-batches of a split for this rank."""
        encoded, mixture = self.encoded[split], self.mixture if split == "train" else None
        longest, limit = int(encoded.lengths.argmax()), self.batching.micro_batch_tokens
        if limit is not None and encoded.lengths[longest] > limit:
            raise ValueError(
                f"{place(self.kept[split][longest])}This {split} example has {encoded.lengths[longest]} tokens, more than `data.batching.micro_batch_tokens`, "
                f"{limit}; raise it to at least that, or lower `data.encoding.max_length`."
            )
        num_examples = len(encoded) if mixture is None else mixture.num_examples(encoded.num_supervised)
        epochs, steps = self.trainer.max_epochs, self.trainer.max_steps
        limits = [-(-steps * self.batching.batch_size // num_examples)] if steps >= 0 else []
        limits += [epochs] if epochs is not None and epochs >= 0 else []
        return BatchPlan(
            encoded.lengths,
            encoded.num_supervised,
            self.batching,
            world_size=self.trainer.world_size,
            rank=self.trainer.global_rank,
            shuffle=shuffle,
            epochs=max(1, min(limits, default=1)),
            mixture=mixture,
        )

    def encode(self, split: Split) -> None:
        """Tokenises the examples of a split, once."""
        if split in self.encoded:
            return
        examples, counts = self.examples(split), self.counts[split]
        rows = self.encode_rows(examples, f"Encoding {split}")
        encoded = [row for row in rows if isinstance(row, Encoded)]
        counts["too long"] += len(rows) - len(encoded)
        counts["truncated"] += sum(row.truncated > 0 for row in encoded)
        if not encoded:
            raise ValueError(
                f"No {split} example is left ({format_counts(counts) or 'the split is empty'}); "
                "give more rows, a larger share for validation, or a larger `data.encoding.max_length`."
            )
        kept = [example for example, row in zip(examples, rows, strict=True) if isinstance(row, Encoded)]
        for part, members in self.divide(split, kept).items():
            self.kept[part] = [kept[index] for index in members]
            self.encoded[part] = EncodedExamples([encoded[index] for index in members], self.encoder.pad_token_id)
        if split == "train" and self.replay and self.general:
            self.mix_in(self.general, self.replay.share)

    def mix_in(self, general: "DomainDataModule", share: float) -> None:
        """Puts the training rows of another data module behind the domain's, with their share of an epoch's supervised tokens.

        Raises:
            ValueError: For general rows that are set aside in the domain, since they would be trained on.
        """
        general.trainer = self.trainer
        general.encode("train")
        aside = {turns_text(example.messages) for example in self.kept.get("held_out", ())}
        if number := sum(turns_text(example.messages) in aside for example in general.kept["train"]):
            raise ValueError(
                f"`data.held_out` sets aside rows that {number:,} of the general rows repeat, which are trained on; remove them from `data.replay.general`."
            )
        self.mixture = Mixture(len(self.encoded["train"]), share)
        self.kept["train"] = [*self.kept["train"], *general.kept["train"]]
        self.encoded["train"] = self.encoded["train"].followed_by(general.encoded["train"])
        general.check_enough(self.mixture.num_general(self.encoded["train"].num_supervised))

    def check_enough(self, num_rows: int) -> None:
        """Refuses to be replayed where an epoch takes too many of its rows; of rows from a file some then occur several times."""

    def divide(self, split: Split, examples: Sequence[Example]) -> dict[Part, list[int]]:
        """The indices of a split's examples by part: training rows may be set aside.

        Raises:
            ValueError: If the share leaves no row to train on, or none aside.
        """
        if split != "train" or not self.held_out:
            return {split: list(range(len(examples)))}
        aside = held_out([turns_text(example.messages) for example in examples], self.held_out, seed=0)
        if len(set(aside)) == 1:
            raise ValueError(
                f"`data.held_out` is {self.held_out}, which sets aside {sum(aside):,} of {len(examples):,} training rows, and some of both kinds are needed; "
                "give another share, or more rows."
            )
        self.counts["train"]["held out"] += sum(aside)
        return {
            "train": [index for index, is_aside in enumerate(aside) if not is_aside],
            "held_out": [index for index, is_aside in enumerate(aside) if is_aside],
        }

    def encode_rows(self, examples: Sequence[Example], title: str) -> Sequence[Encoded | TooLong]:
        """Tokenises each example, or marks it as too long. Collective.

        Where there are many, one rank of each machine tokenises them and the others read its cache.

        Raises:
            ValueError: For an example that cannot be encoded, by file and row.
        """
        if len(examples) < MANY:
            with closing(track(examples, title, show=self.trainer.is_global_zero)) as rows_to_encode:
                return [encode_row(self.encoder, example) for example in rows_to_encode]
        rows, failure, run = None, None, self.trainer.default_root_dir
        if self.trainer.local_rank == 0:
            try:
                rows = encode_many(self.encoder, examples, run, title, self.trainer.is_global_zero)
            except Exception as error:  # raised below, once the others know
                failure = error
        if self.trainer.strategy.reduce_boolean_decision(failure is not None, all=False):
            raise failure or ValueError("The rows could not be encoded; the log of each machine's first process gives the reason.")
        return encode_many(self.encoder, examples, run, title, show=False) if rows is None else rows

    def encode_prompts(self, split: Split) -> None:
        """Tokenises the prompts of a split, once. A prompt that is too long becomes empty and counts as a wrong response."""
        if split in self.prompts:
            return
        examples = self.kept[split] if split in self.kept else self.examples(split)
        prompts, counts = [], self.counts[split]
        with closing(track(examples, f"Encoding {split} prompts", show=self.trainer.is_global_zero)) as prompts_to_encode:
            for example in prompts_to_encode:
                try:
                    prompt, truncated = self.encoder.encode_prompt(example.prompt, tools=example.tools, template_arguments=example.template_arguments)
                except TooLong:
                    prompt, truncated = [], 0
                    counts["too long (counts as wrong)"] += 1
                except ValueError as error:
                    raise ValueError(f"{place(example)}{error}") from error
                counts["truncated"] += truncated > 0
                prompts.append(prompt)
        self.kept[split] = examples
        self.prompts[split] = prompts

    def token_items(self, split: Split) -> Items:
        """The supervised tokens of a split, as the things that a score is over."""
        encoded = self.encoded[split]
        return Items(int(encoded.num_supervised.sum()), "tokens", encoded.token_hash)

    def response_items(self, split: Split) -> Items:
        """The prompts of a split and their right answers, as the things that a score is over."""
        prompts = self.prompts[split]
        answers = [example.meta.get("answer") for example in self.kept[split]]
        return Items(len(prompts), "responses", digest(prompts, answers, self.metric().name))

    def train_dataloader(self) -> DataLoader:
        assert self.train_plan is not None
        self.say_remarks()
        return self.loader(self.encoded["train"], self.train_plan)

    def val_dataloader(self) -> DataLoader:
        return self.loader(self.encoded["val"], self.val_plan) if self.val_plan else DataLoader(Identity(), batch_size=None, sampler=())

    def test_dataloader(self) -> DataLoader:
        """Yields ``MicroBatch``es; the prompts are looked up by their ids."""
        self.say_remarks()
        return self.loader(Identity(), self.prompt_plan("test"))

    def prompt_plan(self, split: Split) -> BatchPlan:
        """Plans the prompts of a split in order, sorted by length within windows of a few forward passes."""
        lengths = np.array([max(1, len(prompt)) for prompt in self.prompts[split]])
        world_size, size = self.trainer.world_size, self.batching.eval_batch_size
        batching = Batching(batch_size=size * world_size * TEST_WINDOW, micro_batch_size=size)
        return BatchPlan(lengths, lengths, batching, world_size=world_size, rank=self.trainer.global_rank, shuffle=False)

    def loader(self, dataset: Dataset, plan: BatchPlan) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=plan,
            num_workers=self.batching.num_workers,
            persistent_workers=self.batching.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # a separate one: the seeds of workers must not advance the random state of training
        )

    def state_dict(self) -> dict[str, int]:
        return {}  # the position follows from the number of steps


def check_plain(name: str, data: DomainDataModule) -> None:
    """Refuses options of a domain in a data module that gives a domain rows.

    Raises:
        ValueError: For rows that are set aside or replayed.
    """
    if data.held_out:
        raise ValueError(f"`{name}` takes no `held_out`, got {data.held_out}; give `data.held_out`, which sets aside rows of the domain.")
    if data.replay:
        raise ValueError(f"`{name}` takes no `replay` of its own; put all general rows into one file.")


def row_hash(example: Example) -> int:
    """A number that equal conversations share, within one process."""
    return hash(tuple((turn["role"], content if isinstance(content := turn["content"], str) else repr(content)) for turn in example.messages))


def turns_text(messages: Sequence[Message]) -> str:
    """Writes turns as one text, the same on every machine."""
    return json.dumps([[turn["role"], turn["content"]] for turn in messages], sort_keys=True, default=repr)


def format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
