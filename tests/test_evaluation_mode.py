import pytest
from torch import nn

from lit_talr.evaluation_mode import evaluation_mode


def test_each_module_has_its_own_mode_again() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    model[1].eval()
    model[1][0].train()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before == [True, True, False, True, False]
