"""A domain with rows of general data among its own, the oldest remedy for forgetting: what is still trained is not lost."""

from collections.abc import Callable, Sequence

from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Split
from lit_talr.data.mixture import Mixture
from lit_talr.domains.base import DomainDataModule
from lit_talr.metrics.base import DomainMetric

DataClass = Callable[[str, str | None, Encoding, Batching], DomainDataModule]
"""Any data module, but for its tokenizer, encoding and batching, which are those of the mixture."""


class Replay(DomainDataModule):
    """A domain whose training rows have general ones among them; validation, test and score are the domain's alone.

    Every epoch has all of the domain's rows and so many of the general ones that these have ``share`` of its supervised tokens, spread evenly over its
    steps; where there are more, each epoch draws others. A step has ``batching.batch_size`` rows of both kinds together. Losses make no difference between
    the kinds. What is replayed is trained: a general suite of the same source tells how well it is kept, not what else is.

    Args:
        tokenizer: Folder or hub name; on the command line it is that of the model.
        tokenizer_revision: Commit, tag or branch of a hub tokenizer; likewise.
        encoding: How examples of both kinds become tokens.
        batching: How they become optimizer steps.
        domain: The domain's data module; it takes no ``tokenizer``, ``encoding`` and ``batching`` of its own.
        general: The data module whose training rows are replayed; likewise.
        share: Of an epoch's supervised tokens that the general rows have, in (0, 1).

    Raises:
        ValueError: For a share out of range.
    """

    def __init__(
        self,
        tokenizer: str,
        domain: DataClass,
        general: DataClass,
        tokenizer_revision: str | None = None,
        encoding: Encoding = Encoding(),
        batching: Batching = Batching(),
        share: float = 0.1,
    ) -> None:
        if not 0 < share < 1:
            raise ValueError(f"`share` must lie between 0 and 1, got {share}; without general rows give the domain alone.")
        super().__init__(tokenizer, tokenizer_revision, encoding, batching)
        self.domain = domain(tokenizer, tokenizer_revision, encoding, batching)
        self.general = general(tokenizer, tokenizer_revision, encoding, batching)
        if any(isinstance(part, Replay) for part in (self.domain, self.general)):
            raise ValueError("A `Replay` inside a `Replay` is not supported; put all general rows into one file.")
        self.share = share
        self.counts = self.domain.counts
        self.source_name = self.domain.source_name
        self.license = self.domain.license

    def examples(self, split: Split) -> Sequence[Example]:
        return self.domain.examples(split)

    def metric(self) -> DomainMetric:
        return self.domain.metric()

    @property
    def sources(self) -> list[DomainDataModule]:
        return [*self.domain.sources, *self.general.sources]

    def encode(self, split: Split) -> None:
        if split in self.encoded:
            return
        super().encode(split)
        if split == "train":
            self.general.trainer = self.trainer
            self.general.encode("train")
            self.mixture = Mixture(len(self.encoded["train"]), self.share)
            self.kept["train"] = [*self.kept["train"], *self.general.kept["train"]]
            self.encoded["train"] = self.encoded["train"].followed_by(self.general.encoded["train"])
