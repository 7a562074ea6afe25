import torch
from torch import Tensor

from lit_talr.losses import L2, TALR
from lit_talr.losses.base import LossStrategy, TokenStats, measured_weights

STATS = TokenStats(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[True, True], [True, False]]), torch.tensor([[0, 0], [1, 1]]))
OTHER = STATS._replace(nll=STATS.nll * 7)


class Counting(LossStrategy):
    """Sets an attribute with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def weights(self, stats: TokenStats) -> Tensor:
        self.num_calls += 1
        self.new = True
        return torch.full_like(stats.nll, self.num_calls)


def test_a_measurement_gives_masked_weights_and_changes_no_attribute() -> None:
    loss = L2(Counting())
    assert measured_weights(loss, STATS).tolist() == measured_weights(loss, STATS).tolist() == [[1, 1], [1, 0]]
    assert loss.loss.num_calls == 0 and not hasattr(loss.loss, "new")


def test_talr_logs_and_uses_the_temperatures_of_training_alone() -> None:
    for scope in ("micro_batch", "step"):
        loss, alone = TALR(scope=scope), TALR(scope=scope)
        for part in (loss, alone):
            for _ in range(2):
                weights = part.weights(STATS)
                if part is loss:
                    measured_weights(loss, OTHER)
                part.observe(STATS, weights)
                part.step_end()
        assert loss.metrics() == alone.metrics() and torch.equal(loss.weights(STATS), alone.weights(STATS))
