"""Operations and exchanged bytes, against counts by hand."""

import pytest
from lightning.pytorch.strategies import DDPStrategy

from lit_talr.data.batch_plan import Batching
from lit_talr.estimate.memory import read_model
from lit_talr.estimate.time import GPUS, seconds, sent, work
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy, FSDP2Strategy
from lit_talr.training.building import Compute
from tests.estimate.runs import facts, plain_model, shape

MATRICES = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 160)  # q, k and v, o, MLP of both layers
HEAD = 64 * 500


def test_operations_are_those_of_the_matrices() -> None:
    run = facts(supervised=1.0)
    model = read_model(run)
    done, tokens = work(run, model), 2 * 32
    attention = 4 * 64 * 32 * 2  # forward, a token: scores and values, two layers
    assert (model.matrices, model.head) == (MATRICES, HEAD)
    assert done.model_flops == tokens * (6 * (MATRICES + HEAD) + 3 * attention) == tokens * (6 * (MATRICES + HEAD) + 12 * 2 * 64 * 32)
    assert done.flops == done.model_flops  # kept logits, nothing recomputed
    again = work(facts(supervised=1.0, compute=Compute(gradient_checkpointing=True)), model._replace(keeps_logits=False))
    assert again.flops - done.flops == tokens * (2 * MATRICES + attention + 2 * HEAD)


@pytest.mark.slow
def test_exchanged_bytes_by_strategy() -> None:
    model = plain_model()
    number, two = model.trained, {"ranks": 4, "precision": "bf16-mixed", "batching": Batching(16, 2)}  # two micro-batches
    assert sent(facts(), model) == 0
    assert sent(facts(strategy=DDPStrategy(), **two), model) == pytest.approx(0.75 * 8 * number)
    for strategy, size in ((DeepSpeedCPUStrategy(1), 4), (DeepSpeedCPUStrategy(2), 6), (DeepSpeedCPUStrategy(3), 12), (FSDP2Strategy(), 16)):
        assert sent(facts(strategy=strategy, **two), model) == pytest.approx(0.75 * size * number)


def test_the_longer_of_compute_and_exchange_is_the_step() -> None:
    run = facts(shape(), strategy=DDPStrategy(), ranks=16)
    done = work(run, plain_model())
    time, fast = seconds(run, done, GPUS["H100 80"], 0.5), GPUS["H100 80"]._replace(half=1e30, single=1e30)
    assert time.communication == done.sent / 50e9 and time.compute == done.flops / (0.5 * 67e12)  # the network, and float32
    assert time.step == max(time) and seconds(run, done, fast, 0.5).step == done.sent / 50e9
