"""Variables of the environment by which libraries tell ranks apart, also while they are imported."""

import math
import os

RANGES = {
    **dict.fromkeys(("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), (0, math.inf)),
    **dict.fromkeys(("WORLD_SIZE", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"), (1, math.inf)),
    **dict.fromkeys(("MASTER_PORT", "STANDALONE_PORT"), (1, 65535)),
}
"""The least and the greatest value of each."""
SIZES = {"RANK": "WORLD_SIZE", "LOCAL_RANK": "WORLD_SIZE", "SLURM_PROCID": "SLURM_NTASKS"}
"""Numbers of a rank, and the variables that say how many ranks there are."""


def explain_variables() -> str | None:
    """The sentence for a variable that cannot be right; None where there is none."""
    for name, (least, greatest) in RANGES.items():
        value = os.environ.get(name, str(least))
        if not (value.isdecimal() and least <= int(value) <= greatest):
            return way_out(name, f"must be a whole number {f'from {least}' if greatest == math.inf else f'in [{least}, {greatest}]'}")
    for name, size in SIZES.items():
        number, total = int(os.environ.get(name, "0")), os.environ.get(size)
        if number >= int(total or "1") and not (name == "LOCAL_RANK" and total is None):  # whoever starts ranks by hand sets it alone
            return way_out(name, f"must be below {size}, which is {total or 'not set'}")
    return None


def way_out(name: str, requirement: str) -> str:
    return f"the variable {name} of the environment {requirement}, got {os.environ[name]!r}; correct it, or `unset {name}`."


def num_started() -> tuple[str, int]:
    """The variable by which Lightning learns how many ranks were started, and their number: 1 where none was."""
    in_slurm = "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    name = "SLURM_NTASKS" if in_slurm and "TORCHELASTIC_RUN_ID" not in os.environ else "WORLD_SIZE"  # torchrun also starts ranks inside of SLURM's tasks
    return name, int(os.environ.get(name, "1"))
