"""Memory by part, against tensors that are really there."""

from functools import partial
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lit_talr.estimate.facts import Facts
from lit_talr.estimate.memory import anchors, memory_of, read_model
from lit_talr.estimate.trace import LiveBytes, build
from lit_talr.losses import EWC, KL, L2, Standard
from lit_talr.modeling.adapters import LoRA
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy, FSDP2Strategy
from lit_talr.training.building import Compute, recompute_layers
from lit_talr.training.mofo import MoFO
from tests.estimate.runs import facts, memory, plain_model, shape


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
        pytest.param(shape("llama", tied=False), {"optimizer": partial(MoFO, lr=1e-3)}, marks=pytest.mark.slow),
        pytest.param(shape("gemma3_text"), {"optimizer": partial(torch.optim.SGD, lr=1e-3, momentum=0.9)}, marks=pytest.mark.slow),
        pytest.param(shape("qwen2"), {"adapter": LoRA(r=4)}, marks=pytest.mark.slow),
    ],
)
def test_weights_gradients_and_optimizer_are_exact_to_the_byte(architecture: dict[str, Any], options: dict[str, Any]) -> None:
    run = facts(architecture, **options)
    backbone, optimizer = really_built(architecture, run)
    model = read_model(run)
    found = memory_of(run, model)
    tensors = [*backbone.parameters(), *backbone.buffers()]
    trained = [weight for weight in backbone.parameters() if weight.requires_grad]
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert found.weights == sum(tensor.nbytes for tensor in tensors)
    assert found.gradients == sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
    assert found.optimizer == sum(value.nbytes for value in states)
    assert (model.trained, model.frozen) == (sum(map(torch.numel, trained)), sum(map(torch.numel, backbone.parameters())) - sum(map(torch.numel, trained)))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_alive_after_forward_is_what_backward_needs(recompute: bool) -> None:
    run = facts(compute=Compute(gradient_checkpointing=recompute))
    ids = torch.zeros(run.rows, run.length, dtype=torch.int64)
    with FakeTensorMode(allow_non_fake_inputs=True):
        empty = build(run)
        with LiveBytes((*empty.parameters(), *empty.buffers())) as live:
            output = empty.states(torch.zeros(run.rows, run.length, dtype=torch.int64))
        alive = live.live["activations"]
    backbone = Backbone(load_model(None, None, shape(), 0, None))
    if recompute:
        recompute_layers(backbone, 1)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*backbone.parameters(), *backbone.buffers())}
    needed: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (key := tensor.untyped_storage().data_ptr()) not in own:
            needed[key] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = backbone.states(ids)
    pack(output)
    assert alive == pytest.approx(sum(needed.values()), rel=0.08)


@pytest.mark.slow
def test_recomputation_and_kept_logits_change_the_activations() -> None:
    options = Compute(), Compute(gradient_checkpointing=True, checkpoint_every=2), Compute(gradient_checkpointing=True)
    sizes = [memory(shape(layers=4), length=256, compute=compute).live.activations for compute in options]
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < 0.6 * sizes[0]


@pytest.mark.slow
def test_an_optimizer_that_makes_copies_needs_room_for_them() -> None:
    assert read_model(facts(optimizer=partial(MoFO, lr=1e-3))).spare >= 12 > plain_model().spare == 0  # a copy of m, and a root and a quotient of v


@pytest.mark.slow
def test_penalties_keep_copies_and_a_running_base_its_weights() -> None:
    model = plain_model()
    assert memory_of(facts(), model).base == 0
    assert memory_of(facts(loss=EWC(Standard(), 0.1)), model).base == 8 * model.trained
    assert (anchors(facts(loss=L2(Standard(), 0.1))), anchors(facts(loss=L2(Standard(), 0.0)))) == (1, 0)
    assert memory_of(facts(loss=KL(Standard())), model).base == model.held


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "split"), [(1, "optimizer"), (2, "gradients"), (3, "weights")])
def test_zero_splits_optimizer_then_gradients_then_weights(stage: int, split: str) -> None:
    run = facts(precision="bf16-mixed", strategy=DeepSpeedCPUStrategy(stage), ranks=4)  # type: ignore[arg-type]
    model = read_model(run)
    found = memory_of(run, model)
    number, order = model.trained, ("optimizer", "gradients", "weights")
    of = {name: 4 if order.index(name) <= order.index(split) else 1 for name in order}
    assert found.optimizer == pytest.approx(12 * number / of["optimizer"], rel=0.01)
    assert found.gradients == pytest.approx(2 * number / of["gradients"])
    assert found.weights == pytest.approx(2 * number / of["weights"], rel=0.01)


@pytest.mark.slow
def test_fsdp2_splits_all_in_float32() -> None:
    run = facts(precision="bf16-mixed", strategy=FSDP2Strategy(), ranks=4)
    model = read_model(run)
    found = memory_of(run, model)
    half = memory_of(facts(precision="bf16-true", strategy=FSDP2Strategy(), ranks=4), model)
    assert (half.weights, half.gradients) == (model.trained / 2, model.gradients / 4)
    assert (found.weights, found.gradients) == (model.trained, model.trained)
    assert found.optimizer == pytest.approx(2 * model.trained, rel=0.01)
