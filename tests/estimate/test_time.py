"""Operations and exchanged bytes, against counts by hand."""

import pytest
from lightning.pytorch.strategies import DDPStrategy

from lit_talr.data.batch_plan import Batching
from lit_talr.estimate.memory import estimate_memory
from lit_talr.estimate.time import GPUS, seconds, sent, work
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy, FSDP2Strategy
from lit_talr.training.building import Compute
from tests.estimate.runs import facts, shape

MATRICES = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 160)  # q, k and v, o, MLP of both layers
HEAD = 64 * 500


def test_operations_are_those_of_the_matrices() -> None:
    run = facts(supervised=1.0)
    counts = estimate_memory(run)[1]
    done, tokens = work(run, counts), 2 * 32
    attention = 4 * 64 * 32 * 2  # forward, a token: scores and values, two layers
    assert (counts.matrices, counts.head) == (MATRICES, HEAD)
    assert done.model_flops == tokens * (6 * (MATRICES + HEAD) + 3 * attention) == tokens * (6 * (MATRICES + HEAD) + 12 * 2 * 64 * 32)
    assert done.flops == done.model_flops  # kept logits, nothing recomputed
    again = work(facts(supervised=1.0, compute=Compute(gradient_checkpointing=True, kept_logits=0)), counts)
    assert again.flops - done.flops == tokens * (2 * MATRICES + attention + 2 * HEAD)


def test_exchanged_bytes_by_strategy() -> None:
    counts = estimate_memory(facts())[1]
    number, two = counts.trained, {"ranks": 4, "precision": "bf16-mixed", "batching": Batching(16, 2)}  # two micro-batches
    assert sent(facts(), counts) == 0
    assert sent(facts(strategy=DDPStrategy(), **two), counts) == pytest.approx(0.75 * 8 * number)
    for strategy, size in ((DeepSpeedCPUStrategy(1), 4), (DeepSpeedCPUStrategy(2), 6), (DeepSpeedCPUStrategy(3), 12), (FSDP2Strategy(), 16)):
        assert sent(facts(strategy=strategy, **two), counts) == pytest.approx(0.75 * size * number)


def test_the_longer_of_compute_and_exchange_is_the_step() -> None:
    run = facts(shape(), strategy=DDPStrategy(), ranks=16)
    done = work(run, estimate_memory(run)[1])
    fast, slow = (seconds(run, done, GPUS["H100 80"], 0.5, network) for network in (1e12, 1.0))
    assert fast.communication == done.sent / 450e9 and slow.step == slow.communication == done.sent
    assert fast.compute == done.flops / (0.5 * 67e12)  # float32
