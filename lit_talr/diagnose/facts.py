"""Counts of a short run: tokens that its base model finds hard, and those of them that are still hard at its end."""

from typing import NamedTuple

from lit_talr.report.statistics import Interval, wilson_interval


class HardTokens(NamedTuple):
    """The hard tokens of one set of rows; a token is hard below the threshold of probability, and its NLL is in nats."""

    num_tokens: int  # all supervised tokens of the rows
    num_hard: int  # under the base model
    num_still: int  # of these, under the trained model too
    hard_base_nll: float  # mean over ``num_hard`` tokens, under the base model
    still_base_nll: float | None  # mean over ``num_still`` tokens, under the base model; None without any
    base_nll: float  # mean over all tokens, under the base model
    nll: float  # the same under the trained model
    start_temperature: float  # lower median over the rows of their mean NLL: TALR's temperature, under the base model
    temperature: float  # the same under the trained model

    @property
    def share(self) -> float:
        """The share of the hard tokens that is still hard."""
        return self.num_still / self.num_hard

    @property
    def interval(self) -> Interval:
        """The Wilson interval of the share; too narrow, since tokens of one row are alike."""
        return wilson_interval(self.num_still, self.num_hard)

    @property
    def learned_base_nll(self) -> float | None:
        """The mean base NLL of the hard tokens that are hard no more; None without any."""
        num_learned = self.num_hard - self.num_still
        return (self.num_hard * self.hard_base_nll - self.num_still * (self.still_base_nll or 0.0)) / num_learned if num_learned else None


class Facts(NamedTuple):
    """All that the rule reads of a short Standard run."""

    epochs: int  # whole ones
    rate: float
    unseen: HardTokens  # rows that were held out of the training rows
    trained: HardTokens  # rows that were trained on
    visible: float | None  # share of the update that rounding leaves (VisibleUpdate); None if not logged
    drift: float | None  # KL to the base model in nats per token (Drift); None if not logged
    adapters: bool  # an adapter was trained
