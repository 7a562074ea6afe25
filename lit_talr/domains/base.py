"""What every domain shares: examples are encoded first, counted exactly, and dealt out by a plan."""

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from rich.progress import Progress
from torch.utils.data import DataLoader, Dataset

from lit_talr.data.batch_plan import Batching, BatchPlan
from lit_talr.data.encoded import EncodedExamples, Identity
from lit_talr.data.encoding import ChatEncoder, Encoded, Encoding, TooLong
from lit_talr.data.example import Example, Split, place
from lit_talr.data.mixture import Mixture
from lit_talr.data.token_cache import MANY, encode_many, encode_row
from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.metrics.base import DomainMetric

TEST_WINDOW = 16  # forwards of test prompts that are sorted by length together


class DomainDataModule(LightningDataModule):
    """A domain: where its examples come from and how its answers are scored. A new one writes ``examples`` and ``metric``.

    Args:
        tokenizer: Folder or hub name; on the command line it is that of the model.
        tokenizer_revision: Commit, tag or branch of a hub tokenizer; likewise.
        encoding: How examples become tokens.
        batching: How examples become optimizer steps.

    Raises:
        ValueError: For an unusable tokenizer, a row that cannot be encoded (by its place), or fewer validation rows than ranks.
    """

    source_name = ""
    """The data set's name, for reports and model cards."""
    license = "not stated"
    trainer: Trainer  # set by Lightning before ``setup``

    def __init__(self, tokenizer: str, tokenizer_revision: str | None = None, encoding: Encoding = Encoding(), batching: Batching = Batching()) -> None:
        super().__init__()
        self.tokenizer_name = tokenizer
        self.tokenizer_revision = tokenizer_revision
        self.encoding = encoding
        self.batching = batching
        self.train_plan: BatchPlan | None = None
        self.val_plan: BatchPlan | None = None
        self.mixture: Mixture | None = None  # how training rows of two kinds share an epoch
        self.kept: dict[Split, Sequence[Example]] = {}
        self.encoded: dict[Split, EncodedExamples] = {}
        self.prompts: dict[Split, list[list[int]]] = {}
        self.counts: dict[Split, Counter[str]] = {"train": Counter(), "val": Counter(), "test": Counter()}

    @abstractmethod
    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split, in a fixed order; rows left out on purpose are counted in ``self.counts[split]`` under their reason."""

    @abstractmethod
    def metric(self) -> DomainMetric:
        """A new metric for the domain's answers."""

    @property
    def sources(self) -> "list[DomainDataModule]":
        """All whose rows are trained."""
        return [self]

    @cached_property
    def encoder(self) -> ChatEncoder:
        return ChatEncoder(load_tokenizer(self.tokenizer_name, self.tokenizer_revision), self.encoding)

    def setup(self, stage: str) -> None:
        self.encoder  # noqa: B018  an unusable tokenizer shows before any row is read
        if stage == "fit":
            self.encode("train")
            self.set_up_training_plan()
        if stage in ("fit", "validate"):
            self.encode("val")
            num_rows, num_ranks = len(self.encoded["val"]), self.trainer.world_size
            self.val_plan = self.plan("val")
            if num_rows < num_ranks:
                raise ValueError(f"There are {num_rows} validation rows for {num_ranks} ranks; give at least one row for each rank, or fewer ranks.")
        if stage == "test":
            self.encode_prompts("test")

    def set_up_training_plan(self) -> None:
        """Plan the steps, and give the trainer the number of micro-batches that a step takes."""
        self.train_plan = self.plan("train", shuffle=True)
        asked, needed = self.trainer.accumulate_grad_batches, self.train_plan.accumulate
        if asked not in (1, needed):
            raise ValueError(
                f"`trainer.accumulate_grad_batches` is {asked}, but {self.batching.batch_size} examples a step on {self.trainer.world_size} rank(s) "
                f"take {needed} micro-batches; leave it out, it follows from `data.batching`."
            )
        self.trainer.accumulate_grad_batches = needed

    def plan(self, split: Split, shuffle: bool = False) -> BatchPlan:
        encoded, mixture = self.encoded[split], self.mixture if split == "train" else None
        longest, limit = int(encoded.lengths.argmax()), self.batching.micro_batch_tokens
        if limit is not None and encoded.lengths[longest] > limit:
            raise ValueError(
                f"{place(self.kept[split][longest])}This {split} example has {encoded.lengths[longest]} tokens, more than `data.batching.micro_batch_tokens`, "
                f"{limit}; raise it to at least that, or lower `data.encoding.max_length`."
            )
        num_examples = len(encoded) if mixture is None else mixture.num_examples(encoded.num_supervised)
        epochs, steps = self.trainer.max_epochs, self.trainer.max_steps
        epochs_of_steps = [-(-steps * self.batching.batch_size // num_examples)] if steps >= 0 else []
        return BatchPlan(
            encoded.lengths,
            encoded.num_supervised,
            self.batching,
            world_size=self.trainer.world_size,
            rank=self.trainer.global_rank,
            shuffle=shuffle,
            epochs=max(1, min([*epochs_of_steps, *([epochs] if epochs is not None and epochs >= 0 else [])], default=1)),
            mixture=mixture,
        )

    def encode(self, split: Split) -> None:
        """Tokenise a split's examples, once."""
        if split in self.encoded:
            return
        kept, encoded, counts, examples = [], [], self.counts[split], self.examples(split)
        for example, row in zip(examples, self.rows(examples, f"Encoding {split}"), strict=True):
            if isinstance(row, TooLong):
                counts["too long"] += 1
                continue
            counts["truncated"] += row.truncated > 0
            kept.append(example)
            encoded.append(row)
        if not kept:
            raise ValueError(
                f"No {split} example is left ({format_counts(counts) or 'the split is empty'}); "
                "give more rows, a larger share for validation, or a larger `data.encoding.max_length`."
            )
        self.kept[split] = kept
        self.encoded[split] = EncodedExamples(encoded, self.encoder.pad_token_id)

    def rows(self, examples: Sequence[Example], title: str) -> Sequence[Encoded | TooLong]:
        """Each as tokens, or that it is too long. Many are encoded by one rank of each machine, and read by the others. Collective.

        Raises:
            ValueError: With the row's place.
        """
        if len(examples) < MANY:
            with self.progress() as progress:
                return [encode_row(self.encoder, example) for example in progress.track(examples, description=title)]
        rows, failure, run = None, None, self.trainer.default_root_dir
        if self.trainer.local_rank == 0:
            try:
                rows = encode_many(self.encoder, examples, run, title, self.trainer.is_global_zero)
            except Exception as error:  # raised below, once the others know
                failure = error
        if self.trainer.strategy.reduce_boolean_decision(failure is not None, all=False):
            raise failure or ValueError("The rows could not be encoded; the first process of a machine says why.")
        return encode_many(self.encoder, examples, run, title, show=False) if rows is None else rows

    def encode_prompts(self, split: Split) -> None:
        """Tokenise what the model is asked, once; a prompt that is too long stays, empty: it counts as a wrong answer."""
        if split in self.prompts:
            return
        examples = self.kept[split] if split in self.kept else self.examples(split)
        prompts, counts = [], self.counts[split]
        with self.progress() as progress:
            for example in progress.track(examples, description=f"Encoding {split} prompts"):
                try:
                    prompt, truncated = self.encoder.encode_prompt(example.prompt)
                except TooLong:
                    prompt, truncated = [], 0
                    counts["too long (counts as wrong)"] += 1
                except ValueError as error:
                    raise ValueError(f"{place(example)}{error}") from error
                counts["truncated"] += truncated > 0
                prompts.append(prompt)
        self.kept[split] = examples
        self.prompts[split] = prompts

    def progress(self) -> Progress:
        """A bar that is gone when its block ends, by an error too."""
        return Progress(transient=True, disable=not self.trainer.is_global_zero)

    def train_dataloader(self) -> DataLoader:
        assert self.train_plan is not None
        return self.loader(self.encoded["train"], self.train_plan)

    def val_dataloader(self) -> DataLoader:
        assert self.val_plan is not None
        return self.loader(self.encoded["val"], self.val_plan)

    def test_dataloader(self) -> DataLoader:
        """Yields ``MicroBatch``es; the prompts are looked up by their ids."""
        return self.loader(Identity(), self.prompt_plan("test"))

    def prompt_plan(self, split: Split) -> BatchPlan:
        """The prompts of a split in their order, sorted by length inside windows of a few forwards."""
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
            generator=torch.Generator(),  # its own: the workers' seeds must not draw from the training's random state
        )

    def state_dict(self) -> dict[str, int]:
        return {}  # the position follows from the number of steps


def held_out(texts: Sequence[str], share: float, seed: int) -> list[bool]:
    """Whether each row is held out for validation: decided by the hash of its text, so equal texts fall on the same side whatever else is there."""
    return [int.from_bytes(hashlib.sha256(f"{seed}\n{text}".encode()).digest()[:8]) < share * 2**64 for text in texts]


def folded(question: object) -> str:
    """A question as it is compared: white space and case aside."""
    return "".join(str(question).casefold().split())


def format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
