"""Devices, ranks, seeds and times that cannot be."""

import re
from typing import Any

import pytest
from jsonargparse import Namespace

from lit_talr.cli.machine import LAUNCHERS, check_machine

USUAL = {
    **{"max_time": None, "fast_dev_run": False, "precision": "32-true", "accelerator": "cpu"},
    **{"strategy": "auto", "devices": "1", "num_nodes": 1, "plugins": None},
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHERS, "WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS_PER_NODE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"devices": "0"}, "`trainer.devices` 0 is not possible with `trainer.accelerator: cpu`; give at least 1."),
        ({"devices": [0, 1]}, "`trainer.devices` [0, 1] is not possible with `trainer.accelerator: cpu`; CPU ranks have no numbers of their own"),
        ({"strategy": "fsdp", "accelerator": "gpu"}, "`trainer.strategy: fsdp` is not supported, but FSDP2 is; give its file: -c configs/strategy/fsdp2.yaml."),
        ({"num_nodes": 2}, "`trainer.num_nodes` 2 asks for ranks on 2 machines, and nothing has started this one as a part of them"),
        ({"max_time": "2h"}, "`trainer.max_time` must be a text of the form DD:HH:MM:SS, such as 00:02:00:00 for two hours, got 2h."),
        ({"fast_dev_run": True}, "`trainer.fast_dev_run` is not supported"),
        ({"precision": "16-mixed"}, "`trainer.precision: 16-mixed` needs a GPU; on the CPU use `bf16-mixed` or `32-true`."),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_refuses(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_machine(Namespace(seed_everything=0, trainer=Namespace(**{**USUAL, **options})))


def test_a_seed_is_named() -> None:
    with pytest.raises(ValueError, match=re.escape("`seed_everything` must lie in [0, 4294967296), got -3.")):
        check_machine(Namespace(seed_everything=-3, trainer=Namespace(**USUAL)))


@pytest.mark.parametrize(
    ("variables", "options", "sentence"),
    [
        ({"WORLD_SIZE": "4"}, {}, "are 1 rank(s), and WORLD_SIZE is 4; make them agree, or `unset WORLD_SIZE` for a process that stands alone."),
        (
            {"SLURM_NTASKS": "4"},
            {"num_nodes": 3},
            "are 3 rank(s), and SLURM_NTASKS is 4; start all ranks by `srun --ntasks-per-node N`, N as in `trainer.devices`, "
            "or `unset SLURM_NTASKS SLURM_PROCID` for a process that stands alone.",
        ),
        ({"SLURM_NTASKS": "4"}, {"devices": "auto"}, "SLURM_NTASKS is 4, and SLURM_NTASKS_PER_NODE, which Lightning needs too, is not set; start all ranks by"),
        ({"LOCAL_RANK": "7"}, {"devices": "2"}, "the variable LOCAL_RANK must be below `trainer.devices`, 2, got 7"),
    ],
)
def test_ranks_that_were_not_started_are_counted(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], options: dict[str, Any], sentence: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_machine(Namespace(seed_everything=0, trainer=Namespace(**{**USUAL, **options})))


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({"SLURM_NTASKS_PER_NODE": "2"}, {"devices": 2, "num_nodes": 2, "max_time": "00:02:00:00"}),
        ({"WORLD_SIZE": "16", "TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "3"}, {"devices": 4, "num_nodes": 4}),  # torchrun, started by srun
        ({}, {"plugins": "LightningEnvironment"}),
    ],
)
def test_what_agrees_passes(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], options: dict[str, Any]) -> None:
    for name, value in {"SLURM_NTASKS": "4", **variables}.items():
        monkeypatch.setenv(name, value)
    check_machine(Namespace(seed_everything=True, trainer=Namespace(**{**USUAL, **options})))
