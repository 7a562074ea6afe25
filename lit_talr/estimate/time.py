"""Time of a step from its floating-point operations and the bytes that ranks exchange."""

from typing import Any, NamedTuple

from lit_talr.estimate.facts import Facts
from lit_talr.estimate.memory import Counts

UTILISATION = 0.4
"""Default share of a GPU's dense peak that is reached, recomputation counted. MosaicML's llm-foundry reports .36 to .59 of an H100 for 1B to 70B in bf16 at
lengths of 512 to 4,096 (HFU in its scripts/train/benchmarking/README.md). This package has not been measured on a GPU."""
NETWORK = 50e9
"""Default bytes a second and GPU between machines: one 400 Gbit/s adapter for each GPU, as in a DGX H100."""
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


def work(facts: Facts, counts: Counts) -> Work:
    """Counts operations and exchanged bytes of a step; the formulas are in docs/scaling.md."""
    text: Any = facts.config.get_text_config()
    tokens, labels = facts.rows * facts.length, facts.labels
    heads = text.num_attention_heads
    width = heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
    windows = [facts.length] * text.num_hidden_layers
    if (window := getattr(text, "sliding_window", None)) and (kinds := getattr(text, "layer_types", None)):
        windows = [min(facts.length, window) if kind == "sliding_attention" else facts.length for kind in kinds]
    forward = tokens * (2.0 * counts.matrices + 4.0 * width * sum(windows))
    attended = tokens * 4.0 * width * sum(windows)
    recomputed = forward / facts.compute.checkpoint_every if facts.compute.gradient_checkpointing else 0.0
    backward = tokens * (2.0 * counts.matrices + 2.0 * counts.trained_matrices) + 2 * attended
    keeps = labels * counts.head / text.hidden_size * 4 <= facts.compute.kept_logits
    head = labels * counts.head * (2.0 + (0 if keeps else 2) + 2.0 + (2.0 if counts.head_trained else 0.0))
    base = forward + 4.0 * labels * counts.head if facts.runs_base else 0.0
    one = forward + recomputed + backward + head + base
    model = tokens * (6.0 * (counts.matrices + counts.head) + 12.0 * width * facts.length * text.num_hidden_layers)
    return Work(one * facts.micro_batches, model * facts.micro_batches, sent(facts, counts), tokens * facts.micro_batches * facts.ranks)


def sent(facts: Facts, counts: Counts) -> float:
    """Bytes that a rank sends in a step: a ring sends a tensor's size times (n - 1) / n for a gather or a scatter, and twice that for a sum."""
    ring = (facts.ranks - 1) / facts.ranks
    size, often = (facts.half.itemsize if facts.half else 4), facts.micro_batches
    trained, whole = float(counts.trained), float(counts.trained + counts.frozen)
    if facts.engine in ("one process", "DDP"):
        return ring * 2 * trained * (2 if facts.precision == "bf16-true" else 4)
    if facts.engine == "ZeRO-1":
        return ring * size * (trained + trained)
    if facts.engine == "ZeRO-2":
        return ring * size * (often * trained + trained)
    gathers = 2 * size * whole
    return ring * often * (gathers + (4 if facts.engine == "FSDP2" else size) * trained)


def seconds(facts: Facts, done: Work, gpu: GPU, utilisation: float, network: float) -> Seconds:
    """Times a step."""
    link = network if facts.ranks > MACHINE else gpu.link
    return Seconds(done.flops / (utilisation * (gpu.half if facts.half else gpu.single)), done.sent / min(link, gpu.link))
