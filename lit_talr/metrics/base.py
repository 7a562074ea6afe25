"""What every domain's score has in common."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torchmetrics import Metric

from lit_talr.data.example import Example

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DomainMetric(Metric):
    """Scores answers against the examples that asked for them; exact over ranks, as every torchmetrics metric.

    ``compute`` returns a dictionary of scalars whose key ``score`` is the one number by which runs of the domain are compared.
    """

    full_state_update = False

    @abstractmethod
    def update(self, answers: Sequence[str], examples: Sequence[Example]) -> None:
        """Add ``answers[i]``, the text generated for ``examples[i]``; an empty answer is a wrong one, never an error."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """The scores so far, ``score`` among them."""

    @abstractmethod
    def judge(self, answer: str, example: Example) -> dict[str, object]:
        """What one answer was read as and whether it is right, for the answers file: at least ``{"correct": bool}``."""

    def figure(self) -> "Figure | None":
        """A picture of the scores so far, where a metric has one; collective, as ``compute``."""
        return None
