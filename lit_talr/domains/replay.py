"""A domain with general data mixed into its training rows: what is still trained is not forgotten."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Split
from lit_talr.data.mixture import Mixture
from lit_talr.domains.base import DomainDataModule, turns_text
from lit_talr.metrics.base import DomainMetric

DataClass = Callable[[str | None, str | None, Encoding, Batching], DomainDataModule]
"""Any data module; its tokenizer, encoding and batching are those of the mixture."""


@dataclass(eq=False, repr=False)
class Replay(DomainDataModule):
    """A domain whose training rows are mixed with general rows; validation, test and score are the domain's alone.

    Every epoch has all rows of the domain and as many general rows as give these ``share`` of the supervised tokens, spread evenly over the steps. Where
    there are more, each epoch draws others. An optimizer step has ``batching.batch_size`` rows of both kinds together, and the loss treats them alike.
    ``held_out`` sets aside rows of the domain alone: all general rows may be trained on.
    Replayed rows are trained on: a general suite from the same source measures how well they are remembered, not other abilities.

    Args:
        domain: The data module of the domain; it takes no ``tokenizer``, ``encoding`` and ``batching`` of its own.
        general: The data module whose training rows are replayed; likewise.
        share: Share of an epoch's supervised tokens that belongs to the general rows, in (0, 1).

    Raises:
        ValueError: For a share out of range, a ``Replay`` within a ``Replay``, ``held_out`` of one of the two, and a row that is both set aside and general.
    """

    domain: DataClass = field(kw_only=True)
    general: DataClass = field(kw_only=True)
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"`share` must lie between 0 and 1, got {self.share}; without general rows give the domain alone.")
        super().__post_init__()
        self.own, self.replayed = (data(self.tokenizer, self.tokenizer_revision, self.encoding, self.batching) for data in (self.domain, self.general))
        if any(isinstance(part, Replay) for part in (self.own, self.replayed)):
            raise ValueError("A `Replay` inside a `Replay` is not supported; put all general rows into one file.")
        for name, part in (("domain", self.own), ("general", self.replayed)):
            if part.held_out:
                raise ValueError(f"`data.{name}` takes no `held_out`, got {part.held_out}; give `data.held_out`, which sets aside rows of the domain.")
        self.counts, self.source_name, self.license = self.own.counts, self.own.source_name, self.own.license

    def examples(self, split: Split) -> Sequence[Example]:
        return self.own.examples(split)

    def test_examples(self) -> Sequence[Example]:
        return self.own.test_examples()

    def metric(self) -> DomainMetric:
        return self.own.metric()

    @property
    def sources(self) -> list[DomainDataModule]:
        return [*self.own.sources, *self.replayed.sources]

    def encode(self, split: Split) -> None:
        if split in self.encoded:
            return
        super().encode(split)
        if split == "train":
            self.replayed.trainer = self.trainer
            self.replayed.encode("train")
            self.check_held_out()
            self.mixture = Mixture(len(self.encoded["train"]), self.share)
            self.kept["train"] = [*self.kept["train"], *self.replayed.kept["train"]]
            self.encoded["train"] = self.encoded["train"].followed_by(self.replayed.encoded["train"])

    def check_held_out(self) -> None:
        """Refuses general rows that are set aside in the domain, since they would be trained on."""
        aside = set(map(turns_text, self.kept.get("held_out", ())))
        if number := sum(turns_text(example) in aside for example in self.replayed.kept["train"]):
            raise ValueError(
                f"`data.held_out` sets aside rows that {number:,} of the general rows repeat, which are trained on; remove them from `data.general`."
            )
