"""Memory by part, against tensors that are really there."""

from functools import partial
from typing import Any

import pytest
import torch

from lit_talr.data.batch_plan import Batching
from lit_talr.estimate.facts import Facts
from lit_talr.estimate.memory import anchors, changes, estimate_memory
from lit_talr.estimate.trace import run_step
from lit_talr.losses import EWC, KL, L2, Standard
from lit_talr.modeling.adapters import LoRA
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy, FSDP2Strategy
from lit_talr.training.building import Compute
from lit_talr.training.mofo import MoFO
from tests.estimate.runs import facts, shape


def really_built(architecture: dict[str, Any], run: Facts) -> tuple[Backbone, torch.optim.Optimizer]:
    backbone = Backbone(load_model(None, None, architecture, 0, None), run.adapter)
    optimizer = run.optimizer([weight for weight in backbone.parameters() if weight.requires_grad])
    ids = torch.zeros(run.rows, run.length, dtype=torch.int64)
    backbone(ids, ids).nll.sum().backward()
    optimizer.step()
    return backbone, optimizer


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        (shape("qwen3"), {}),
        (shape("llama", tied=False), {"optimizer": partial(MoFO, lr=1e-3)}),
        (shape("gemma3_text"), {"optimizer": partial(torch.optim.SGD, lr=1e-3, momentum=0.9)}),
        (shape("qwen2"), {"adapter": LoRA(r=4)}),
    ],
)
def test_weights_gradients_and_optimizer_are_exact_to_the_byte(architecture: dict[str, Any], options: dict[str, Any]) -> None:
    run = facts(architecture, **options)
    backbone, optimizer = really_built(architecture, run)
    memory, counts = estimate_memory(run)
    tensors = [*backbone.parameters(), *backbone.buffers()]
    trained = [weight for weight in backbone.parameters() if weight.requires_grad]
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert memory.weights == sum(tensor.nbytes for tensor in tensors)
    assert memory.gradients == sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
    assert memory.optimizer == sum(value.nbytes for value in states)
    assert (counts.trained, counts.frozen) == (sum(map(torch.numel, trained)), sum(map(torch.numel, backbone.parameters())) - sum(map(torch.numel, trained)))


@pytest.mark.parametrize("recompute", [False, True])
def test_kept_activations_are_what_backward_saves(recompute: bool) -> None:
    run = facts(compute=Compute(gradient_checkpointing=recompute))
    backbone = Backbone(load_model(None, None, shape(), 0, None))
    if recompute:
        backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    own = {tensor.untyped_storage().data_ptr() for tensor in (*backbone.parameters(), *backbone.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (key := tensor.untyped_storage().data_ptr()) not in own:
            saved[key] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.zeros(run.rows, run.length, dtype=torch.int64)
    labels = torch.where(torch.arange(run.length) < run.length // 2, ids, -100)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = backbone(ids, labels)
    logits = run.labels * 500 * 4  # kept by the head's function, not by autograd
    memory, _ = estimate_memory(run)
    assert memory.kept == pytest.approx(sum(saved.values()) + logits, rel=0.08)
    del output


def test_few_layers_tell_the_peak_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({}, {"compute": Compute(gradient_checkpointing=True)}, {"length": 4, "batching": Batching(4, 2)}):
        run = facts(shape(layers=5), **options)  # type: ignore[arg-type]
        short, _ = estimate_memory(run)
        with monkeypatch.context() as patch:
            patch.setattr("lit_talr.estimate.memory.trace", run_step)
            whole, _ = estimate_memory(run)
        assert short.peak == pytest.approx(whole.peak, rel=0.01)


def test_recomputation_and_kept_logits_change_the_activations() -> None:
    options = Compute(), Compute(gradient_checkpointing=True, checkpoint_every=2), Compute(gradient_checkpointing=True)
    sizes = [estimate_memory(facts(shape(layers=4), length=256, compute=compute))[0].activations for compute in options]
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < 0.6 * sizes[0]


def test_penalties_keep_copies_and_a_running_base_its_weights() -> None:
    plain, counts = estimate_memory(facts())
    assert plain.base == 0
    assert estimate_memory(facts(loss=EWC(Standard(), 0.1)))[0].base == 8 * counts.trained
    assert (anchors(facts(loss=L2(Standard(), 0.1))), anchors(facts(loss=L2(Standard(), 0.0)))) == (1, 0)
    assert estimate_memory(facts(loss=KL(Standard())))[0].base == plain.weights


@pytest.mark.parametrize(("stage", "split"), [(1, "optimizer"), (2, "gradients"), (3, "weights")])
def test_zero_splits_optimizer_then_gradients_then_weights(stage: int, split: str) -> None:
    run = facts(precision="bf16-mixed", strategy=DeepSpeedCPUStrategy(stage), ranks=4)  # type: ignore[arg-type]
    memory, counts = estimate_memory(run)
    number, order = counts.trained, ("optimizer", "gradients", "weights")
    of = {name: 4 if order.index(name) <= order.index(split) else 1 for name in order}
    assert memory.optimizer == pytest.approx(12 * number / of["optimizer"], rel=0.01)
    assert memory.gradients == pytest.approx(2 * number / of["gradients"])
    assert memory.weights == pytest.approx(2 * number / of["weights"], rel=0.01)


def test_fsdp2_splits_all_in_float32() -> None:
    memory, counts = estimate_memory(facts(precision="bf16-mixed", strategy=FSDP2Strategy(), ranks=4))
    assert (memory.weights, memory.gradients) == (counts.trained, counts.trained)
    assert memory.optimizer == pytest.approx(2 * counts.trained, rel=0.01)


def test_changes_are_offered_where_they_can_help() -> None:
    others = dict(changes(facts(length=4096, precision="bf16-mixed")))
    assert len(others) == 6 and others["--data.batching.micro_batch_size 1"].rows == 1
    assert list(dict(changes(facts(adapter=LoRA(), batching=Batching(1, 1), compute=Compute(gradient_checkpointing=True))))) == []
