"""A diagnosis as a table in the terminal, and as plain values."""

from math import exp
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_talr.diagnose.facts import Facts, HardTokens
from lit_talr.diagnose.rule import LIMITS, STILL_HARD, THRESHOLD, Advice, cut_after
from lit_talr.report.runs import scientific


def print_diagnosis(run: Path, facts: Facts, advice: Advice) -> None:
    """Print the counts of both sets, and the recommendation; without colours and in Markdown where it is piped."""
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(f"{run}: Standard, rate {scientific(facts.rate)}, {facts.epochs} epoch(s)\n", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.MARKDOWN, highlight=False)
    table.add_column("")
    for name in ("unseen rows", "trained rows"):
        table.add_column(name, justify="right")
    columns = [cells(part, facts.epochs) for part in (facts.unseen, facts.trained)]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    console.print(table)
    visible = "not logged; in fp32 all of it shows (VisibleUpdate)" if facts.visible is None else f"{facts.visible:.0%} shows in the arithmetic of the run"
    drift = "not logged (Drift)" if facts.drift is None else f"{facts.drift:.3g} nats a token from the base"
    lines = {"visible update": visible, "drift": drift, "recommendation": advice.remedy, "reason": advice.reason}
    lines |= {"how sure": advice.certainty, "else": advice.instead}
    for name, text in lines.items():
        console.print(Text.assemble((name, "bold"), f": {text}"), soft_wrap=not console.is_terminal)


def cells(tokens: HardTokens, epochs: int) -> dict[str, str]:
    """The lines of the table for one set."""
    lower, upper = tokens.interval if tokens.num_hard else (0.0, 1.0)
    weight = lambda nll: "-" if nll is None else f"{nll:.2f} ({exp(-nll / tokens.start_temperature):.2g})"  # noqa: E731
    return {
        "tokens": f"{tokens.num_tokens:,}",
        f"hard for the base (p < {THRESHOLD:g})": f"{tokens.num_hard:,} ({tokens.num_hard / max(1, tokens.num_tokens):.0%})",
        f"of these still hard after {epochs} epoch(s)": f"{tokens.num_still:,} ({tokens.share:.0%} [{lower:.0%}, {upper:.0%}])" if tokens.num_hard else "0",
        "base NLL of those (TALR's weight at the start)": weight(tokens.still_base_nll),
        "base NLL of the others (weight)": weight(tokens.learned_base_nll if tokens.num_hard else None),
        "TALR's temperature: base, now": f"{tokens.start_temperature:.2f}, {tokens.temperature:.2f}",
        "mean NLL: base, now": f"{tokens.base_nll:.2f}, {tokens.nll:.2f}",
    }


def as_values(run: Path, facts: Facts, advice: Advice) -> dict[str, Any]:
    """Everything that is printed, for ``diagnosis.json``."""
    sets = {name: set_values(tokens) for name, tokens in (("unseen", facts.unseen), ("trained", facts.trained))}
    rule = {"threshold": THRESHOLD, "cut": cut_after(facts.epochs), "cuts": {str(epochs): cut for epochs, cut in STILL_HARD.items()}, "limits": LIMITS}
    return {"run": str(run), **facts._asdict(), **sets, "rule": rule, "advice": advice._asdict()}


def set_values(tokens: HardTokens) -> dict[str, Any]:
    if not tokens.num_hard:
        return tokens._asdict()
    return {**tokens._asdict(), "share": tokens.share, "interval": list(tokens.interval), "learned_base_nll": tokens.learned_base_nll}
