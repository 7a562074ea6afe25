"""Time of a step from its floating-point operations and the bytes that ranks exchange."""

from typing import NamedTuple

from lit_talr.estimate.facts import Facts
from lit_talr.estimate.memory import Model

UTILIZATION = 0.4
"""Default share of a GPU's dense peak that is reached, recomputation counted. MosaicML's llm-foundry reports .36 to .59 of an H100 for 1B to 70B in bf16 at
lengths of 512 to 4,096 (HFU in its scripts/train/benchmarking/README.md). This package has not been measured on a GPU."""
NETWORK = 50e9
"""Bytes a second and GPU between machines: one 400 Gbit/s adapter for each GPU, as in a DGX H100."""
MACHINE = 8
"""GPUs of one machine."""
ROOM = 0.92
"""Share of a GPU's memory that a run may fill; the rest is for CUDA, libraries and fragments."""


class GPU(NamedTuple):
    """A GPU by its data sheet."""

    mebibytes: int  # as nvidia-smi shows them
    half: float  # dense FLOP/s in bf16 with sums in float32
    single: float  # FLOP/s in float32, without TF32
    link: float  # bytes a second, in each direction, between GPUs of a machine

    @property
    def memory(self) -> float:
        return self.mebibytes * 2.0**20


GPUS = {
    "RTX 4090": GPU(24564, 165e12, 83e12, 32e9),
    "A100 40": GPU(40960, 312e12, 19.5e12, 300e9),
    "A100 80": GPU(81920, 312e12, 19.5e12, 300e9),
    "H100 80": GPU(81559, 989e12, 67e12, 450e9),
    "H200 141": GPU(143771, 989e12, 67e12, 450e9),
}
"""Data sheets of NVIDIA: Ada architecture paper (GeForce RTX 4090), A100, H100 SXM, H200 SXM; NVLink has 600 and 900 GB/s in both directions together."""


def seconds(facts: Facts, model: Model, gpu: GPU, utilization: float) -> tuple[float, float]:
    """The times that a rank computes, at a share of the GPU's peak in (0, 1], and sends; a step takes the longer of both, as if they overlapped wholly."""
    link = min(NETWORK, gpu.link) if facts.ranks > MACHINE else gpu.link
    return facts.micro_batches * model.flops / (utilization * (gpu.half if facts.half else gpu.single)), sent(facts, model) / link


def sent(facts: Facts, model: Model) -> float:
    """Bytes that a rank sends in a step: a ring sends a tensor's size times (n - 1) / n for a gather or a scatter, and twice that for a sum."""
    ring, size, often = (facts.ranks - 1) / facts.ranks, facts.itemsize, facts.micro_batches
    if facts.engine in ("one process", "DDP"):
        return ring * 2 * model.gradients
    if facts.engine in ("ZeRO-1", "ZeRO-2"):
        return ring * size * model.trained * (1 + (often if facts.engine == "ZeRO-2" else 1))
    return ring * often * (2.0 * size * (model.trained + model.frozen) + (facts.owned_itemsize if facts.engine == "FSDP2" else size) * model.trained)
