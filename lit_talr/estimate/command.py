"""``lit-talr estimate``: its options, and what it prints."""

import re
from collections.abc import Callable, Sequence

from jsonargparse import Namespace
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from rich import box
from rich.console import Console
from rich.table import Table

from lit_talr.estimate.facts import Facts, read_facts
from lit_talr.estimate.memory import Memory, Model, anchors, memory_of, read_model
from lit_talr.estimate.time import GPUS, ROOM, UTILIZATION, seconds, sent
from lit_talr.modeling.strategies import shards_weights
from lit_talr.utils.errors import check_in, check_least, nearest
from lit_talr.utils.own_options import OwnOptions

DESCRIPTION = """Memory of each GPU by part, which GPUs have room for it, what to turn if one has not, and the time of a step, before any weight is loaded or
row read. All words that are not listed below are those of `lit-talr fit`: -c FILE, --key value. docs/scaling.md has the formulas."""
GIB, MIB = 2**30, 2**20


def options() -> OwnOptions:
    """The parser of the command's own options."""
    parser = OwnOptions(prog="lit-talr estimate", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--ranks", type=int, metavar="N", help="GPUs in all; those of the trainer unless given, or 1 where it takes what is there.")
    parser.add_argument("--length", type=int, metavar="TOKENS", help="Of every row, padding included; data.encoding.max_length, the longest, unless given.")
    parser.add_argument("--supervised", type=float, default=1.0, metavar="SHARE", help="Of the tokens that carry loss; 1, the most, unless given.")
    parser.add_argument("--train-rows", "--train_rows", type=int, metavar="N", help="Training rows, for the time of the run.")
    reached = f"Of a GPU's peak that is reached, recomputation counted; {UTILIZATION:g} unless given."
    parser.add_argument("--utilization", type=float, default=UTILIZATION, metavar="SHARE", help=reached)
    return parser


def estimate(words: Sequence[str], read: Callable[[Sequence[str]], Namespace]) -> None:
    """Print memory and time of a run.

    Args:
        words: Words of the command line, without ``estimate``.
        read: Gives what ``fit`` makes of its words: ``trainer``, ``model`` and ``data``.

    Raises:
        ValueError: For bad input, and for a run that ``fit`` refuses.
    """
    parser = options()
    given, common = parser.parse_known_args(list(words))
    check_in("--utilization", given.utilization, "(0, 1]")
    check_least("--train-rows", given.train_rows, 1)
    try:
        run = read(common)
    except ValueError as error:  # it knows the options of fit alone
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", str(error))
        if unknown and (near := nearest(unknown[1], parser._option_string_actions)):
            raise ValueError(f"there is no option `{unknown[1]}`; did you mean {near[0]}?") from error
        raise
    facts = read_facts(run, given.ranks, given.length, given.supervised)
    check_fit(run, facts)
    model = read_model(facts)
    memory = memory_of(facts, model)
    print_memory(facts, memory)
    if facts.gpu:
        print_gpus(facts, model, memory.peak, given.utilization, num_steps(run.trainer, facts, given.train_rows))


def check_fit(run: Namespace, facts: Facts) -> None:
    """Refuses what ``fit`` refuses, as if the GPUs were there."""
    trainer = Namespace(**vars(run.trainer))
    trainer.strategy, trainer.precision, trainer.callbacks = facts.strategy, facts.precision, run.trainer.callbacks or []
    trainer.accelerator = CUDAAccelerator() if facts.gpu else CPUAccelerator()
    trainer.limit_train_batches = 1.0 if run.trainer.limit_train_batches is None else run.trainer.limit_train_batches
    run.model.check(trainer)


def num_steps(trainer: Namespace, facts: Facts, train_rows: int | None) -> int | None:
    """Optimizer steps of the run, where they are known."""
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if train_rows is not None and (trainer.max_epochs or 0) > 0:
        limits.append(trainer.max_epochs * -(-train_rows // facts.batching.batch_size))
    return min(limits, default=None)


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose numbers stand on the right; in Markdown where it is piped."""
    console = Console()
    if not console.is_terminal:
        console.width = 160
    table = Table(names[0], box=box.SIMPLE_HEAD if console.is_terminal else box.MARKDOWN, highlight=False)
    for name in names[1:]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def size_text(size: float) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB else f"{size / MIB:,.1f} MiB" if size else "0"


def number_text(number: float) -> str:
    return f"{number:,.2f}" if number >= 1 else f"{number:.2g}"


def print_memory(facts: Facts, memory: Memory) -> None:
    """Print the parts."""
    where = f"{facts.ranks} x {facts.engine}" if facts.ranks > 1 else facts.engine
    tokens = f"{facts.micro_batches} micro-batch(es) of {facts.rows} x {facts.length:,} tokens on each rank"
    recomputed = "with" if facts.compute.gradient_checkpointing else "without"
    print(f"{where}, {facts.precision}, {tokens}, {facts.supervised:.0%} supervised\n")
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer, masters": memory.optimizer,
        "base model's copy, anchors": memory.base,
        "buckets, gathered weights": memory.engine,
        f"activations at the peak, {recomputed} recomputation": memory.live.activations,
        "head at the peak": memory.live.head,
        "gradients at the peak": memory.live.gradients,
        f"peak of a step ({memory.moment})": memory.peak,
        f"test: keys and values of {facts.batching.eval_batch_size} x {facts.length + facts.new_tokens:,} tokens, beside the weights": memory.cache,
    }
    print_table(("memory of a rank", "size"), [(name, size_text(size)) for name, size in parts.items()])
    print("The peak has what is there at one moment; gradients are made and activations freed during backward.")
    if facts.compute.head_kernel != "own" or facts.compute.liger_layers or facts.compute.compile_layers:
        print("Counted with this package's head kernel and the layers of transformers, neither Liger's nor compiled.")


def print_gpus(facts: Facts, model: Model, peak: float, utilization: float, steps: int | None) -> None:
    """Print room and time on each GPU, the assumptions, and what to turn."""
    rows = []
    for name, gpu in GPUS.items():
        times = seconds(facts, model, gpu, utilization)
        run = "-" if steps is None else number_text(steps * max(times) / 3600)
        fits = "yes" if peak <= ROOM * gpu.memory else "no"
        rows.append((name, size_text(gpu.memory), f"{peak / gpu.memory:.0%}", fits, *map(number_text, (max(times), *times)), run))
    print_table(("GPU", "memory", "peak, share", "fits", "step, s", "of which compute, s", "exchange, s", "run, h"), rows)
    tokens, flops = facts.rows * facts.length * facts.micro_batches * facts.ranks, facts.micro_batches * model.flops
    print(
        f"It fits where the peak is at most {ROOM:.0%} of the memory; the rest is for CUDA, libraries and fragments.\n"
        f"A step has {tokens:,} tokens. A rank computes {number_text(flops / 1e12)} TFLOP at {utilization:.0%} of the peak (--utilization), and sends "
        f"{number_text(sent(facts, model) / 1e9)} GB; exchange and compute overlap."
    )
    if steps is None:
        print("The time of the run needs --train-rows.")
    if any(row[3] == "no" for row in rows):
        print(f"To need less, one of these: {', '.join(changes(facts))}.")


def changes(facts: Facts) -> list[str]:
    """Options that need less memory than this run, and that it can take."""
    sharded, plain = shards_weights(facts.strategy), facts.adapter is None
    lines = {
        "--model.compute.gradient_checkpointing true": not facts.compute.gradient_checkpointing,
        "--data.batching '{micro_batch_size: 1, micro_batch_tokens: null}'": facts.rows > 1 and not facts.batching.packing,
        "-c configs/adapter/lora.yaml": plain and not anchors(facts) and not sharded,
        "-c configs/strategy/fsdp2.yaml with --ranks 8 or more": plain and not facts.runs_base and not sharded,
        "a loss without a running base model": plain and facts.runs_base,
        "--data.encoding.max_length": True,
    }
    return [line for line, helps in lines.items() if helps]
