"""Time of a step from its floating-point operations and the bytes that ranks exchange."""

from typing import Any, NamedTuple

from lit_talr.estimate.facts import Facts
from lit_talr.estimate.memory import Model

UTILISATION = 0.4
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

    memory: float  # bytes, as nvidia-smi shows them
    half: float  # dense FLOP/s in bf16 with sums in float32
    single: float  # FLOP/s in float32, without TF32
    link: float  # bytes a second, in each direction, between GPUs of a machine


MIB = 2.0**20
GPUS = {
    "RTX 4090": GPU(24564 * MIB, 165e12, 83e12, 32e9),
    "A100 40": GPU(40960 * MIB, 312e12, 19.5e12, 300e9),
    "A100 80": GPU(81920 * MIB, 312e12, 19.5e12, 300e9),
    "H100 80": GPU(81559 * MIB, 989e12, 67e12, 450e9),
    "H200 141": GPU(143771 * MIB, 989e12, 67e12, 450e9),
}
"""Data sheets of NVIDIA: Ada architecture paper (GeForce RTX 4090), A100, H100 SXM, H200 SXM; NVLink has 600 and 900 GB/s in both directions together."""


class Work(NamedTuple):
    """A step of one rank."""

    flops: float  # hardware's: with recomputation
    model_flops: float  # by 6P + 12LDS, without
    sent: float  # bytes that a rank sends
    tokens: int  # of all ranks, padding included


class Seconds(NamedTuple):
    """The time of a step."""

    compute: float
    communication: float

    @property
    def step(self) -> float:
        """The longer of both, as if they overlapped wholly."""
        return max(self)


def work(facts: Facts, model: Model) -> Work:
    """Counts operations and exchanged bytes of a step; the formulas are in docs/scaling.md."""
    text: Any = facts.config.get_text_config()
    tokens, labels, times = facts.rows * facts.length, facts.labels, facts.micro_batches
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * model.layers
    windows = [min(facts.length, text.sliding_window) if kind == "sliding_attention" else facts.length for kind in kinds]
    attended = tokens * 4.0 * width * sum(windows)
    forward = tokens * 2.0 * model.matrices + attended
    recomputed = forward / facts.compute.checkpoint_every if facts.compute.gradient_checkpointing else 0.0
    backward = tokens * 2.0 * (model.matrices + model.trained_matrices) + 2 * attended
    head = labels * model.head * (4.0 + (0 if model.keeps_logits else 2) + (2 if model.head_trained else 0))
    base = forward + 4.0 * labels * model.head if facts.runs_base else 0.0
    by_formula = tokens * (6.0 * (model.matrices + model.head) + 12.0 * width * facts.length * model.layers)
    return Work((forward + recomputed + backward + head + base) * times, by_formula * times, sent(facts, model), tokens * times * facts.ranks)


def sent(facts: Facts, model: Model) -> float:
    """Bytes that a rank sends in a step: a ring sends a tensor's size times (n - 1) / n for a gather or a scatter, and twice that for a sum."""
    ring = (facts.ranks - 1) / facts.ranks
    size, often, trained = facts.itemsize, facts.micro_batches, model.trained
    if facts.engine in ("one process", "DDP"):
        return ring * 2 * trained * (size if facts.precision.endswith("true") else 4)
    if facts.engine == "ZeRO-1":
        return ring * size * (trained + trained)
    if facts.engine == "ZeRO-2":
        return ring * size * (often * trained + trained)
    reduced = (4 if facts.engine == "FSDP2" else size) * trained
    return ring * often * (2.0 * size * (trained + model.frozen) + reduced)


def seconds(facts: Facts, done: Work, gpu: GPU, utilisation: float) -> Seconds:
    """Times a step, at a share of the GPU's peak in (0, 1]."""
    link = min(NETWORK, gpu.link) if facts.ranks > MACHINE else gpu.link
    return Seconds(done.flops / (utilisation * (gpu.half if facts.half else gpu.single)), done.sent / link)
