"""Operations and exchanged bytes, against counts by hand."""

import pytest
from lightning.pytorch.strategies import DDPStrategy

from lit_talr.data.batch_plan import Batching
from lit_talr.estimate.memory import read_model
from lit_talr.estimate.time import GPUS, seconds, sent
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy, FSDP2Strategy
from lit_talr.training.building import Compute
from tests.estimate.runs import facts, plain_model, shape

MATRICES = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 160)  # q, k and v, o, MLP of both layers
DOWN = 2 * 64 * 160  # whose product a layer does not compute again, since nothing needs it
HEAD = 64 * 500


def test_operations_are_those_of_the_matrices() -> None:
    tokens, attention = 2 * 32, 4 * 64 * 32 * 2  # forward, a token: scores and values, two layers
    whole = read_model(facts(supervised=1.0)).flops
    assert whole == tokens * (6 * (MATRICES + HEAD) + 3.5 * attention)  # 6P + 14LDS: kept logits, scores recomputed
    again = read_model(facts(supervised=1.0, compute=Compute(gradient_checkpointing=True, kept_logits=0)))
    assert again.flops - whole == tokens * (2 * (MATRICES - DOWN) + attention + 2 * HEAD)
    on_gpu = read_model(facts(supervised=1.0, precision="bf16-mixed", gpu=True, compute=Compute(kept_logits=0)))  # whose sums have a dtype of their own
    assert on_gpu.flops - whole == tokens * 2 * HEAD


@pytest.mark.slow
def test_exchanged_bytes_by_strategy() -> None:
    model = plain_model()
    number, two = model.trained, {"ranks": 4, "precision": "bf16-mixed", "batching": Batching(16, 2)}  # two micro-batches
    assert sent(facts(), model) == 0
    assert sent(facts(strategy=DDPStrategy(), **two), model) == pytest.approx(0.75 * 8 * number)
    for strategy, size in ((DeepSpeedCPUStrategy(1), 4), (DeepSpeedCPUStrategy(2), 6), (DeepSpeedCPUStrategy(3), 12), (FSDP2Strategy(), 16)):
        assert sent(facts(strategy=strategy, **two), model) == pytest.approx(0.75 * size * number)


def test_compute_and_exchange_take_their_times() -> None:
    run = facts(shape(), strategy=DDPStrategy(), ranks=16)
    model = plain_model()
    assert seconds(run, model, GPUS["H100 80"], 0.5) == (model.flops / (0.5 * 67e12), sent(run, model) / 50e9)  # float32, and the network
