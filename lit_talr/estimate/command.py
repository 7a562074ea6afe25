"""``lit-talr estimate``: its options, and what it prints."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from rich import box
from rich.console import Console
from rich.table import Table

from lit_talr.estimate.facts import GIB, Facts, read_facts
from lit_talr.estimate.memory import Memory, changes, estimate_memory
from lit_talr.estimate.time import GPUS, NETWORK, ROOM, UTILISATION, Seconds, Work, seconds, work
from lit_talr.utils.errors import check_in, check_least
from lit_talr.utils.files import write_json
from lit_talr.utils.own_options import OwnOptions

DESCRIPTION = """Memory of each GPU by part, which GPUs have room for it, what to turn if none has, and the time of a step, before any weight is loaded or row
read. All words that are not listed below are those of `lit-talr fit`: -c FILE, --key value. docs/scaling.md has the formulas."""


def options() -> OwnOptions:
    """The parser of the command's own options."""
    parser = OwnOptions(prog="lit-talr estimate", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--ranks", type=int, metavar="N", help="GPUs in all; those of the trainer unless given, or 1 where it takes what is there.")
    parser.add_argument("--length", type=int, metavar="TOKENS", help="Of every row, padding included; data.encoding.max_length, the longest, unless given.")
    parser.add_argument("--supervised", type=float, default=1.0, metavar="SHARE", help="Of the tokens that carry loss; 1, the most, unless given.")
    parser.add_argument("--train-rows", "--train_rows", type=int, metavar="N", help="Training rows, for the time of the run.")
    parser.add_argument(
        "--utilisation",
        type=float,
        default=UTILISATION,
        metavar="SHARE",
        help=f"Of a GPU's peak that is reached, recomputation counted; {UTILISATION:g} unless given.",
    )
    parser.add_argument("--network", type=float, default=NETWORK / 1e9, metavar="GB/s", help=f"Of each GPU between machines; {NETWORK / 1e9:g} unless given.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write all numbers there, in bytes and seconds.")
    return parser


def estimate(words: Sequence[str], read: Callable[[Sequence[str]], Namespace]) -> None:
    """Print memory and time of a run.

    Args:
        words: Words of the command line, without ``estimate``.
        read: Gives what ``fit`` makes of its words: ``trainer``, ``model`` and ``data``.

    Raises:
        ValueError: For bad input.
    """
    given, common = options().parse_known_args(list(words))
    check_in("--utilisation", given.utilisation, "(0, 1]")
    check_in("--network", given.network, "(0, inf)")
    check_least("--train-rows", given.train_rows, 1)
    run = read(common)
    facts = read_facts(run, given.ranks, given.length, given.supervised)
    memory, counts = estimate_memory(facts)
    done = work(facts, counts)
    steps = num_steps(run.trainer, facts, given.train_rows)
    times = {name: seconds(facts, done, gpu, given.utilisation, given.network * 1e9) for name, gpu in GPUS.items()}
    fits = {name: memory.peak <= ROOM * gpu.memory for name, gpu in GPUS.items()}
    others = {} if all(fits.values()) else {text: estimate_memory(changed)[0].peak for text, changed in changes(facts)}
    console = Console()
    if not console.is_terminal:
        console.width = 160
    print_memory(console, facts, memory)
    if facts.gpu:
        print_gpus(console, memory, fits, times, steps)
    print_rest(console, facts, done, given.utilisation, steps, others)
    if given.json is not None:
        write_json(given.json, as_values(facts, memory, done, times, fits, steps, others))


def num_steps(trainer: Any, facts: Facts, train_rows: int | None) -> int | None:
    """Optimizer steps of the run, where they are known."""
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if train_rows is not None and trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(trainer.max_epochs * -(-train_rows // facts.batching.batch_size))
    return min(limits, default=None)


def table(console: Console, *names: str) -> Table:
    """A table whose numbers stand on the right; in Markdown where it is piped."""
    made = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.MARKDOWN, highlight=False)
    for index, name in enumerate(names):
        made.add_column(name, justify="right" if index else "left")
    return made


def gib(size: float) -> str:
    return f"{size / GIB:,.2f}"


def print_memory(console: Console, facts: Facts, memory: Memory) -> None:
    """Print the parts."""
    where = f"{facts.ranks} x {facts.engine}" if facts.ranks > 1 else facts.engine
    tokens = f"{facts.micro_batches} micro-batch(es) of {facts.rows} x {facts.length:,} tokens on each rank"
    console.print(f"{where}, {facts.precision}, {tokens}, {facts.supervised:.0%} supervised\n", markup=False, highlight=False, soft_wrap=True)
    made = table(console, "memory of a rank", "GiB")
    recomputed = "with" if facts.compute.gradient_checkpointing else "without"
    lines = {"weights": memory.weights, "gradients": memory.gradients, "optimizer, masters": memory.optimizer}
    lines |= {"base model's copy, anchors": memory.base, "buckets, gathered weights": memory.engine}
    lines |= {f"activations at the peak, {recomputed} recomputation": memory.activations - memory.head, "head at the peak": memory.head}
    for name, size in lines.items():
        made.add_row(name, gib(size))
    made.add_row(f"peak of a step ({memory.moment})", gib(memory.peak))
    made.add_row(f"test: weights and the cache of {facts.batching.eval_batch_size} x {facts.length + facts.new_tokens:,} tokens", gib(memory.test))
    console.print(made)
    console.print("The peak has what is there at one moment; gradients are made and activations freed during backward.\n", highlight=False, soft_wrap=True)


def print_gpus(console: Console, memory: Memory, fits: dict[str, bool], times: dict[str, Seconds], steps: int | None) -> None:
    """Print room and time on each GPU."""
    made = table(console, "GPU", "GiB", "peak, share", "fits", "step, s", "of which compute, s", "exchange, s", "run, h")
    for name, gpu in GPUS.items():
        time = times[name]
        run = "-" if steps is None else f"{steps * time.step / 3600:,.1f}"
        cells = f"{time.step:,.2f}", f"{time.compute:,.2f}", f"{time.communication:,.2f}", run
        made.add_row(name, gib(gpu.memory), f"{memory.peak / gpu.memory:.0%}", "yes" if fits[name] else "no", *cells)
    console.print(made)


def print_rest(console: Console, facts: Facts, done: Work, utilisation: float, steps: int | None, others: dict[str, float]) -> None:
    """Print the assumptions, and what to turn."""
    lines = [
        f"It fits where the peak is at most {ROOM:.0%} of the memory; the rest is for CUDA, libraries and fragments.",
        f"A step has {done.tokens:,} tokens. A rank computes {done.flops / 1e12:,.0f} TFLOP ({done.model_flops / 1e12:,.0f} by 6P + 12LDS) at "
        f"{utilisation:.0%} of the peak (--utilisation), and sends {done.sent / 1e9:,.1f} GB; exchange and compute overlap.",
    ]
    if steps is None:
        lines.append("The time of the run needs --train-rows.")
    if others:
        lines += ["", "To need less, each alone:", *(f"  {gib(peak)} GiB  {text}" for text, peak in sorted(others.items(), key=lambda item: item[1]))]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def as_values(
    facts: Facts, memory: Memory, done: Work, times: dict[str, Seconds], fits: dict[str, bool], steps: int | None, others: dict[str, float]
) -> dict[str, Any]:
    """Everything that is printed, as plain values."""
    setting = {"engine": facts.engine, "ranks": facts.ranks, "precision": facts.precision, "rows": facts.rows, "length": facts.length}
    setting |= {"micro_batches": facts.micro_batches, "supervised": facts.supervised, "steps": steps}
    gpus = {name: {"fits": fits[name], **time._asdict(), "step": time.step} for name, time in times.items()}
    return {**setting, "memory": memory._asdict(), "step": done._asdict(), "gpus": gpus, "less": others}
