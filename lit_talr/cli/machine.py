"""Refuses devices, ranks, seeds and times that cannot be, before Lightning looks for them; it names them in words of its own."""

import os
import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace

from lit_talr.cli.rank_variables import num_started
from lit_talr.utils.errors import check_in

LAUNCHERS = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE")
"""Variables of the environment by which ranks on several machines find each other."""


def check_machine(config: Namespace) -> None:
    """Refuses what a machine, or Lightning, cannot do.

    Args:
        config: Of ``fit``, ``validate`` or ``test``.

    Raises:
        ValueError: Naming the option and the way out.
    """
    trainer = config.trainer
    check_in("seed_everything", config.seed_everything, "[0, 4294967296)")
    if isinstance(trainer.max_time, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", trainer.max_time):
        raise ValueError(f"`trainer.max_time` must be a text of the form DD:HH:MM:SS, such as 00:02:00:00 for two hours, got {trainer.max_time}.")
    if trainer.fast_dev_run:
        raise ValueError("`trainer.fast_dev_run` is not supported, since it cuts optimizer steps; use `--trainer.max_steps 2`.")
    if trainer.precision in ("16-mixed", "16", 16) and trainer.accelerator == "cpu":
        raise ValueError(f"`trainer.precision: {trainer.precision}` needs a GPU; on the CPU use `bf16-mixed` or `32-true`.")
    if isinstance(trainer.strategy, str) and trainer.strategy.startswith("fsdp"):
        file = f"configs/strategy/fsdp2{'-cpu' if trainer.accelerator == 'cpu' else ''}.yaml"
        raise ValueError(f"`trainer.strategy: {trainer.strategy}` is not supported, but FSDP2 is; give its file: -c {file}.")
    check_devices(trainer)


def check_devices(trainer: Namespace) -> None:
    """Refuses a number of devices that is none, and machines that nothing has started."""
    devices, nodes = as_number(trainer.devices), trainer.num_nodes
    if devices == 0 or (trainer.accelerator == "cpu" and ((isinstance(devices, Sequence) and devices != "auto") or devices == -1)):
        way_out = "CPU ranks have no numbers of their own: give how many, such as 2" if devices else "give at least 1"
        raise ValueError(f"`trainer.devices` {trainer.devices} is not possible with `trainer.accelerator: {trainer.accelerator}`; {way_out}.")
    if nodes > 1 and not any(name in os.environ for name in LAUNCHERS):
        raise ValueError(
            f"`trainer.num_nodes` {nodes} asks for ranks on {nodes} machines, and nothing has started this one as a part of them; "
            "start it by torchrun or srun on each (docs/running.md), or leave it out."
        )
    if not trainer.plugins:  # which may tell ranks apart by other means
        check_ranks(nodes, len(devices) if isinstance(devices, list) else devices)


def check_ranks(nodes: int, per_node: Any) -> None:
    """Refuses numbers of ranks that contradict the program that started this one.

    Args:
        nodes: Number of machines.
        per_node: Number of devices on each; a word or -1 where Lightning counts them.
    """
    name, started = num_started()
    is_slurm, is_number = name == "SLURM_NTASKS", isinstance(per_node, int) and per_node > 0
    way_out = "start all ranks by `srun --ntasks-per-node N`, N as in `trainer.devices`" if is_slurm else "make them agree"
    way_out += f", or `unset {'SLURM_NTASKS SLURM_PROCID' if is_slurm else name}` for a process that stands alone."
    if started > 1 and is_number and nodes * per_node != started:
        raise ValueError(f"`trainer.num_nodes` {nodes} x `trainer.devices` {per_node} are {nodes * per_node} rank(s), and {name} is {started}; {way_out}")
    if started > 1 and is_slurm and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(f"SLURM_NTASKS is {started}, and SLURM_NTASKS_PER_NODE, which Lightning needs too, is not set; {way_out}")
    if is_number and (number := int(os.environ.get("LOCAL_RANK", "0"))) >= per_node:
        raise ValueError(f"the variable LOCAL_RANK must be below `trainer.devices`, {per_node}, got {number}; correct it, or `unset LOCAL_RANK`.")


def as_number(devices: Any) -> Any:
    """The number, list or word that a value of ``trainer.devices`` stands for."""
    return int(devices) if isinstance(devices, str) and re.fullmatch(r"-?\d+", devices) else devices
