from collections.abc import Callable

import pytest
import torch
from torch import nn

from lit_talr.modeling.evaluation_mode import evaluation_mode


def test_each_module_has_its_own_mode_again() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    model[1].eval()
    model[1][0].train()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before == [True, True, False, True, False]


def test_layers_that_were_compiled_run_as_they_are() -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        compiled.append(graph)
        return graph.forward

    class Layer(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values * 2

    layer = Layer()
    layer.compile(backend=backend)
    with evaluation_mode(layer):
        layer(torch.ones(2))
    assert not compiled
    layer(torch.ones(2))
    assert len(compiled) == 1
