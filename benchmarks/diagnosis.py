"""Does a diagnosis predict what TALR is worth? Collects the statistics of short runs of Standard, one row a run, for docs/diagnose.md.

    lit-talr sweep ... --space configs/sweep/diagnose.yaml --out runs/diagnosis    (the whole line stands in that file)
    python -m benchmarks.diagnosis runs/diagnosis
    python -m docs.make_tables      (joins them with the study of docs/when_talr_helps.md)

Runs that are not finished are left out, so a part of the sweep can be collected. Runs of TALR in the folder give the dear predictor: NLL on unseen rows after
two epochs of both losses, capped, since summed NLL falls by mere calibration.
"""

import argparse
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd

from lit_talr.diagnose.facts import HardTokens
from lit_talr.diagnose.rule import advise
from lit_talr.diagnose.run import TABLE, read_facts
from lit_talr.report.runs import LeftOutError, configured_trial, find, read_object

CAPPED = 3.0
"""Nats at which the NLL of a token is capped, the edge of the first of 20 bins of probability."""
OUT = Path(__file__).parents[1] / "docs" / "diagnose"
PARTS = ("unseen", "trained")


def diagnosed(folder: Path) -> dict[str, Any]:
    """The statistics of a finished short run of Standard."""
    facts = read_facts(folder)
    advice = advise(facts)
    row: dict[str, Any] = {"epochs": facts.epochs, "rate": facts.rate, "drift": facts.drift, "helps": advice.helps, "remedy": advice.remedy}
    for part in PARTS:
        tokens: HardTokens = getattr(facts, part)
        row |= {f"{part}_{name}": value for name, value in tokens._asdict().items()}
        row |= {f"{part}_share": tokens.share, f"{part}_learned_base_nll": tokens.learned_base_nll}
    return row


def capped_nll(folder: Path) -> float:
    """Mean of min(NLL, 3) over the unseen tokens after the last epoch, from their bins of probability; nan where the bins are not there."""
    table = pd.read_parquet(folder / TABLE)
    bins = table[(table["epoch"] == table["epoch"].max()) & (table["set"] == "held_out") & (table["group"] == "bin") & (table["num_tokens"] > 0)]
    return nan if bins.empty else float((bins["nll"].clip(upper=CAPPED) * bins["num_tokens"]).sum() / bins["num_tokens"].sum())


def collect(folders: Sequence[Path]) -> pd.DataFrame:
    """A row for each finished short run of Standard, with the NLL that TALR's run of the same condition and seed has on the same rows, if there is one."""
    rows: list[dict[str, Any]] = []
    capped: dict[tuple[str, str, int], float] = {}
    for name, folder in find(folders).items():
        try:
            trial = {**configured_trial(folder), **read_object(folder / "trial.json")}
        except LeftOutError:
            continue
        if trial.get("remedy") not in ("standard", "talr") or not (folder / "metrics.json").is_file():
            continue  # the base model, or not finished
        key = (str(trial["remedy"]), str(trial.get("variant")), int(trial.get("seed") or 0))
        capped[key] = capped_nll(folder)
        if key[0] == "standard":
            rows.append({"name": name, "variant": key[1], "seed": key[2], **diagnosed(folder)})
    for row in rows:
        row |= {f"capped_nll_{remedy}": capped.get((remedy, row["variant"], row["seed"]), nan) for remedy in ("standard", "talr")}
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Collects the statistics of short runs into diagnoses.parquet.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=OUT)
    words = parser.parse_args()
    table = collect(words.folders)
    words.out.mkdir(parents=True, exist_ok=True)
    table.to_parquet(words.out / "diagnoses.parquet", index=False)
    print(f"{words.out / 'diagnoses.parquet'}: {len(table)} run(s) of {table['variant'].nunique() if len(table) else 0} condition(s)")
