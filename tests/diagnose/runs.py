"""Short runs made by hand: a configuration and a table of token statistics, as ``fit`` leaves them."""

from pathlib import Path
from typing import Any

from lit_talr.curriculum.token_groups import write_table

CONFIG = """
seed_everything: 0
model:
  loss: {{class_path: lit_talr.{loss}}}
  adapter: {adapter}
  optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.002}}}}
data: {{class_path: Clinic, init_args: {{target: cot, held_out: 0.2, batching: {{batch_size: 8}}}}}}
"""
SETS = ("probe", "held_out")


def token_rows(
    name: str,
    last: int = 2,
    num_hard: int = 400,
    num_still: int = 300,
    hard_base_nll: float = 11.0,
    still_base_nll: float = 13.0,
    start_temperature: float = 4.8,
    temperature: float = 2.5,
    threshold: float = 0.2,
) -> list[dict[str, Any]]:
    """The rows that ``diagnose`` reads of one set, and one of a group that it does not."""
    rows: list[dict[str, Any]] = []
    for epoch in range(last + 1):
        still = num_hard if epoch == 0 else num_still
        middle = start_temperature if epoch == 0 else temperature
        rows += [
            {"epoch": epoch, "group": "all", "num_tokens": 1000, "nll": 4.0 - epoch, "base_nll": 4.0, "sequence_median": middle},
            {"epoch": epoch, "group": "base_hard", "num_tokens": num_hard, "base_nll": hard_base_nll},
            {"epoch": epoch, "group": "still_hard", "num_tokens": still, "base_nll": (still_base_nll if epoch else hard_base_nll) if still else None},
            {"epoch": epoch, "group": "easy", "num_tokens": 500, "nll": 0.1, "base_nll": 0.01},
        ]
    return [{"set": name, "threshold": threshold, **row} for row in rows]


def write_run(folder: Path, rows: list[dict[str, Any]] | None = None, loss: str = "Standard", adapter: str = "null") -> Path:
    """A run of noise by default: three quarters of the unseen hard tokens are still hard, a tenth of the trained ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG.format(loss=loss, adapter=adapter))
    if rows is None:
        rows = [*token_rows("probe", num_still=40), *token_rows("held_out")]
    write_table(folder / "token_probability.parquet", rows)
    return folder
