"""Any metric, overall and for each group of examples."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from lit_talr.data.example import Example
from lit_talr.metrics.base import DomainMetric


class ByGroup(DomainMetric):
    """The numbers of a metric over all examples, and ``score/<group>`` for each group that has any; ``example.meta["group"]``, where it is there, names it.

    Args:
        make: Makes the metric.
        groups: The names of the groups, the same on every rank.
    """

    def __init__(self, make: Callable[[], DomainMetric], groups: Collection[str]) -> None:
        super().__init__()
        self.whole, self.groups = make(), sorted(groups)
        self.parts = nn.ModuleList(make() for _ in self.groups)  # so that they move and are saved with it

    def _metrics(self) -> list[DomainMetric]:
        """The metric of all, then those of the groups."""
        return [self.whole, *cast("Iterable[DomainMetric]", self.parts)]

    @property
    def name(self) -> str:
        return self.whole.name

    def update(self, responses: Sequence[str], examples: Sequence[Example]) -> None:
        self.whole.update(responses, examples)
        for group, part in zip(self.groups, self._metrics()[1:], strict=True):
            members = [index for index, example in enumerate(examples) if example.meta.get("group") == group]
            part.update([responses[index] for index in members], [examples[index] for index in members])

    def compute(self) -> dict[str, Tensor]:
        for metric in self._metrics():
            metric.sync_on_compute = self.sync_on_compute
        shares = {f"score/{group}": part.compute()["score"] for group, part in zip(self.groups, self._metrics()[1:], strict=True)}
        return {**self.whole.compute(), **{name: share for name, share in shares.items() if not share.isnan()}}

    def judge(self, response: str, example: Example) -> dict[str, object]:
        return {"group": example.meta.get("group"), **self.whole.judge(response, example)}

    def reset(self) -> None:
        super().reset()
        for metric in self._metrics():
            metric.reset()
