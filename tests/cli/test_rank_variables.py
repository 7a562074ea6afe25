"""Variables that tell ranks apart and cannot be right."""

import pytest

from lit_talr.cli.rank_variables import RANGES, explain_variables


@pytest.fixture(autouse=True)
def none_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANGES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"RANK": "abc"}, "RANK of the environment must be a whole number from 0, got 'abc'; correct it, or `unset RANK`."),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE of the environment must be a whole number from 1, got '0'; "),
        ({"MASTER_PORT": "99999999"}, "MASTER_PORT of the environment must be a whole number in [1, 65535], got '99999999'; "),
        ({"LOCAL_RANK": "7", "WORLD_SIZE": "2"}, "LOCAL_RANK of the environment must be below WORLD_SIZE, which is 2, got '7'; "),
        ({"SLURM_PROCID": "3"}, "SLURM_PROCID of the environment must be below SLURM_NTASKS, which is not set, got '3'; "),
    ],
)
def test_are_named_with_what_was_expected(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (explain_variables() or "").startswith(f"the variable {sentence}")


@pytest.mark.parametrize(
    "variables", [{}, {"LOCAL_RANK": "1"}, {"SLURM_PROCID": "0"}, {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_PORT": "29500"}]
)
def test_others_pass(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert explain_variables() is None
