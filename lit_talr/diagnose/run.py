"""A short Standard run's facts, from its folder alone."""

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lit_talr.diagnose.facts import Facts, HardTokens
from lit_talr.diagnose.rule import LEAST_TOKENS, THRESHOLD
from lit_talr.report.runs import LeftOutError, configured_trial, trained_rows
from lit_talr.utils.errors import first_line
from lit_talr.utils.files import read_json_lines, run_around
from lit_talr.utils.score import last_step, read_scores, values

if TYPE_CHECKING:
    import pandas as pd  # takes half a second to import

TABLE = "token_probability.parquet"
SETS = {"held_out": "unseen", "probe": "trained"}
"""The sets of the table, in the words of ``Facts``."""


def read_facts(folder: Path) -> Facts:
    """Read the facts of a run.

    Raises:
        ValueError: For a folder that is no run, a run of another loss than Standard, one without token statistics, without rows held out, without a whole
            epoch, with another threshold, and with too few hard tokens.
    """
    check_folder(folder)
    trial = read_trial(folder)
    table = read_table(folder)
    last = whole_epochs(folder, int(table["epoch"].max()))
    if last < 1:
        raise ValueError(f"{folder} has not finished an epoch; continue it with `--ckpt_path auto`, or train for one or two epochs.")
    try:
        sets = {name: hard_tokens(table[table["set"] == key], last) for key, name in SETS.items()}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / TABLE} lacks what `diagnose` reads ({error}); run the short run again with this version.") from error
    facts = Facts(last, trial["rate"], **sets, visible=read_visible(folder), drift=read_drift(folder), adapters=trial["adapter"])
    refuse_few(folder, facts)
    return facts


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no run."""
    if not (folder / "config.yaml").is_file():
        state = "has no config.yaml, so it is no run" if folder.is_dir() else "is no folder"
        raise ValueError(f"{folder} {state}{run_around(folder, 'config.yaml') or '; give the folder of a short Standard run, its `--run`.'}")


def read_trial(folder: Path) -> dict[str, Any]:
    """Remedy and rate of a run of Standard."""
    try:
        trial = configured_trial(folder)
    except LeftOutError as error:
        raise ValueError(f"{folder} {error}; give the folder of a short Standard run.") from error
    if trial["loss"] != "standard":
        raise ValueError(
            f"{folder} was trained with the loss {trial['remedy']}; the rule was found on Standard, so give a run with configs/loss/standard.yaml."
        )
    return trial


def read_table(folder: Path) -> "pd.DataFrame":
    """The token statistics, with rows held out and the rule's threshold."""
    import pandas as pd

    path = folder / TABLE
    if not path.is_file():
        raise ValueError(f"{folder} has no {TABLE}; train with the callback TokenProbability, which configs/base.yaml has.")
    try:
        table = pd.read_parquet(path)
        present, threshold = set(table["set"]), float(table["threshold"].iloc[0])
    except (OSError, ValueError, KeyError, IndexError) as error:  # pyarrow's are ValueErrors
        raise ValueError(f"{path} is damaged ({first_line(error)}); restore it from a copy, or move it away.") from error
    if "held_out" not in present:
        raise ValueError(
            f"{folder} held no training rows out, so what it has learned cannot be told from what it has memorised; train with `--data.held_out 0.2`."
        )
    if threshold != THRESHOLD:
        raise ValueError(
            f"{folder} was watched with `threshold: {threshold:g}`, the rule was found with {THRESHOLD:g}; leave TokenProbability's `threshold` out."
        )
    return table


def whole_epochs(folder: Path, watched: int) -> int:
    """The number of epochs that were trained to their end: the table has a part of one like a whole one, so steps and rows are counted where they are known."""
    steps, rows = last_step(read_scores(folder / "metrics.json").get("fit", {})), trained_rows(folder)["num_rows"]
    data = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["data"]
    batch_size = ((data.get("init_args") or {}).get("batching") or {}).get("batch_size")
    if steps is None or not rows or not batch_size:
        return watched
    return min(watched, steps // ceil(rows / batch_size))


def hard_tokens(rows: "pd.DataFrame", last: int) -> HardTokens:
    """The hard tokens of a set, from its rows of the table."""
    first, everything = one_row(rows, 0, "all"), one_row(rows, last, "all")
    hard, still = one_row(rows, last, "base_hard"), one_row(rows, last, "still_hard")
    num_still = int(still["num_tokens"])
    return HardTokens(
        num_tokens=int(everything["num_tokens"]),
        num_hard=int(hard["num_tokens"]),
        num_still=num_still,
        hard_base_nll=float(hard["base_nll"]),
        still_base_nll=float(still["base_nll"]) if num_still else None,
        base_nll=float(first["nll"]),
        nll=float(everything["nll"]),
        start_temperature=float(first["sequence_median"]),
        temperature=float(everything["sequence_median"]),
    )


def one_row(rows: "pd.DataFrame", epoch: int, group: str) -> "pd.Series[Any]":
    return rows[(rows["epoch"] == epoch) & (rows["group"] == group)].iloc[0]


def refuse_few(folder: Path, facts: Facts) -> None:
    """Refuse too few hard tokens for a share."""
    if (count := facts.unseen.num_hard) < LEAST_TOKENS:
        more = f"at least {ceil(LEAST_TOKENS / count)} times as many rows" if count else "more rows"
        raise ValueError(
            f"{folder} has {count} unseen token(s) that the base finds hard, and {LEAST_TOKENS} are needed; hold out {more} (`--data.held_out`), "
            "or, if the domain has no more, there is nothing that TALR could hold back."
        )


def read_visible(folder: Path) -> float | None:
    return values(read_scores(folder / "metrics.json").get("fit", {})).get("update/visible")


def read_drift(folder: Path) -> float | None:
    """The last measured divergence; None without any."""
    path = folder / "drift.jsonl"
    if not path.is_file():
        return None
    try:
        return float(read_json_lines(path)[-1]["kl"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({first_line(error)}); restore it from a copy, or move it away.") from error
