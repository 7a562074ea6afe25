"""The tables of docs/diagnose.md: short runs of docs/diagnose beside what TALR was worth in the study of docs/when_talr_helps."""

from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd

from docs.tables.markdown import interval, short, table
from lit_talr.diagnose.rule import PLAUSIBLE_NLL, STILL_HARD
from lit_talr.report.statistics import pareto_front, wilson_interval

RATE = 2e-3
"""The rate of the short runs, at which TALR minus Standard is predicted too."""
RESAMPLES, SEED = 2000, 0
FEWEST = 4
"""The least number of conditions for a correlation."""
STUDY = "when_talr_helps"
Point = tuple[float, float]

PREDICTORS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "unseen hard tokens that are still hard (the rule's)": lambda rows: rows["unseen_share"],
    "trained hard tokens that are still hard": lambda rows: rows["trained_share"],
    "NLL on unseen rows after": lambda rows: rows["unseen_nll"],
    "naive: share of p < .2 under the base": lambda rows: rows["unseen_num_hard"] / rows["unseen_num_tokens"],
    "naive: temperature at the start": lambda rows: rows["unseen_start_temperature"],
    "dear: both losses, NLL on unseen rows capped at 3": lambda rows: rows["capped_nll_standard"] - rows["capped_nll_talr"],
}
"""Statistics of a short run, of which more should speak for TALR; fixed before the conditions were run that test them."""
OUTCOMES = {"domain": "domain", "general": "general", "matched": "general at matched domain"}


def best_general(points: Sequence[Point], level: float) -> float:
    """The best general score at a domain score of at least ``level``, on the straight lines between the points that none beats."""
    front = np.array([points[index] for index in pareto_front(points)])  # by rising domain score
    return float(np.interp(level, front[:, 0], front[:, 1]))


def matched_advantage(talr: Sequence[Point], standard: Sequence[Point]) -> float:
    """TALR's general score minus Standard's at the highest domain score that both reach at some rate."""
    level = min(max(domain for domain, _ in points) for points in (talr, standard))
    return best_general(talr, level) - best_general(standard, level)


def advantages(study: Path) -> pd.DataFrame:
    """TALR minus Standard by condition, means over seeds; empty where the study has no such pair yet."""
    columns = [*OUTCOMES, "lower", "upper", "seeds"]
    rows: dict[str, dict[str, float]] = {}
    if not (study / "means.parquet").is_file():
        return pd.DataFrame(columns=columns, index=pd.Index([], name="variant"))
    means, pairs = (pd.read_parquet(study / f"{name}.parquet") for name in ("means", "pairs"))
    for variant, group in means[means["remedy"].isin(["standard", "talr"])].groupby("variant"):
        points = {remedy: list(zip(part["domain"], part["general"], strict=True)) for remedy, part in group.groupby("remedy")}
        at_rate = group[np.isclose(group["rate"], RATE)].set_index("remedy")
        if not {"standard", "talr"} <= set(at_rate.index):
            continue
        pair = pairs[(pairs["reference"] == at_rate["point"]["standard"]) & (pairs["point"] == at_rate["point"]["talr"])]
        difference = at_rate.loc["talr", ["domain", "general"]] - at_rate.loc["standard", ["domain", "general"]]
        rows[str(variant)] = {
            **{
                "domain": float(difference["domain"]),
                "general": float(difference["general"]),
                "matched": matched_advantage(points["talr"], points["standard"]),
            },
            **{name: float(pair[f"domain_{name}"].iloc[0]) if len(pair) else nan for name in ("lower", "upper")},
            "seeds": float(at_rate["seeds"].min()),
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("variant")


def joined(diagnoses: pd.DataFrame, study: Path) -> pd.DataFrame:
    """Conditions that have both a diagnosis and an advantage: means over seeds of each predictor, and the advantages."""
    predictors = pd.DataFrame({name: read(diagnoses) for name, read in PREDICTORS.items()}).astype(float)
    facts = diagnoses[["unseen_num_hard", "unseen_still_base_nll", "unseen_learned_base_nll", "unseen_temperature"]].astype(float)
    shown = pd.concat([predictors, facts], axis=1).groupby(diagnoses["variant"]).mean()
    return shown.join(advantages(study), how="inner")


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation; nan where one of the two never differs."""
    ranks = pd.DataFrame({"first": first, "second": second}).rank()
    return nan if (ranks.nunique() < 2).any() else float(ranks.corr().iloc[0, 1])


def with_interval(first: np.ndarray, second: np.ndarray) -> str:
    """The correlation with its 95 % percentile bootstrap over conditions."""
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    if len(first) < FEWEST:
        return "-"
    draws = np.random.default_rng(SEED).integers(0, len(first), (RESAMPLES, len(first)))
    rhos = [spearman(first[draw], second[draw]) for draw in draws]
    lower, upper = np.nanquantile(rhos, (0.025, 0.975)) if np.isfinite(rhos).any() else (nan, nan)
    return interval(spearman(first, second), lower, upper, sign=True)


def best_cut(values: np.ndarray, helps: np.ndarray) -> float:
    """The cut with the most right answers of "TALR helps above it", half-way between two values; the middle one of equally good."""
    ordered = np.unique(values)
    cuts = np.concatenate([[-np.inf], (ordered[1:] + ordered[:-1]) / 2, [np.inf]])
    right = [int(((values > cut) == helps).sum()) for cut in cuts]
    best = np.flatnonzero(np.array(right) == max(right))
    return float(cuts[best[len(best) // 2]])


def right_left_out(values: np.ndarray, helps: np.ndarray) -> int:
    """How many conditions are told right by the cut that is best for the others."""
    others = ~np.eye(len(values), dtype=bool)
    return sum(bool((values[index] > best_cut(values[rest], helps[rest])) == helps[index]) for index, rest in enumerate(others))


def of(right: int, number: int) -> str:
    """How many conditions are told right, with Wilson's interval of their share."""
    lower, upper = wilson_interval(right, number)
    return f"{right} of {number} [{short(lower)}, {short(upper)}]"


def predictors(conditions: pd.DataFrame) -> str:
    """Each statistic's correlation with TALR's advantages, and how often "TALR helps on the domain" is right."""
    lines = []
    clear = conditions["lower"].gt(0) | conditions["upper"].lt(0)
    for name in PREDICTORS:
        known = conditions[conditions[name].notna()]
        values, helps = known[name].to_numpy(float), known["domain"].to_numpy(float) > 0
        rhos = [with_interval(values, known[outcome].to_numpy(float)) for outcome in OUTCOMES]
        sure = clear[known.index].to_numpy()
        parts = [np.full(len(known), True), sure]
        right = [of(right_left_out(values[part], helps[part]), int(part.sum())) if part.sum() > 1 else "-" for part in parts]
        lines.append([name, *rhos, *right])
    return table(["statistic of the short run", *(f"rho with {name}" for name in OUTCOMES.values()), "right, left one out", "right of the clear"], lines)


def fixed(conditions: pd.DataFrame) -> str:
    """How often the cut that was fixed beforehand is right, beside the answer that is right most often."""
    clear = conditions["lower"].gt(0) | conditions["upper"].lt(0)
    share, lines = next(iter(PREDICTORS)), []
    for name, part in {"all conditions": conditions, "those whose difference excludes 0": conditions[clear]}.items():
        helps = part["domain"] > 0
        above = part[share] > STILL_HARD[2]
        rule = above & (part["unseen_still_base_nll"] >= PLAUSIBLE_NLL)
        counts = [int((answer == helps).sum()) for answer in (rule, above)] + [int(helps.sum()), int((~helps).sum())]
        lines.append([name, *(of(count, len(part)) for count in counts)])
    return table(["", "the rule", f"its cut of {short(STILL_HARD[2])} alone", 'always "yes"', 'always "no"'], lines)


def by_condition(conditions: pd.DataFrame) -> str:
    """Each condition's diagnosis, and what TALR was worth there."""
    lines = []
    for variant, row in conditions.sort_values(next(iter(PREDICTORS)), ascending=False).iterrows():
        share = row[next(iter(PREDICTORS))]
        likely = f"{row['unseen_still_base_nll']:.1f} / {row['unseen_learned_base_nll']:.1f}"
        gained = interval(row["domain"], row["lower"], row["upper"], sign=True)
        answer = "yes" if share > STILL_HARD[2] else "no"
        cells = [short(share), likely, f"{row['unseen_temperature']:.2f}", answer, gained, short(row["general"], True), short(row["matched"], True)]
        lines.append([str(variant), *cells, f"{row['seeds']:.0f}"])
    head = ["condition", "still hard", "base NLL: still hard / learned", "temperature after", "the cut says", "TALR minus Standard: domain", "general"]
    return table([*head, "general at matched domain", "seeds"], lines)


def diagnose_tables(folder: Path) -> dict[str, str]:
    """Every table of the page by its name."""
    file = folder / "diagnoses.parquet"
    conditions = joined(pd.read_parquet(file), folder.parent / STUDY) if file.is_file() else pd.DataFrame()
    if conditions.empty:
        return dict.fromkeys(("predictors", "fixed", "conditions"), "Nothing is measured yet.")
    return {"predictors": predictors(conditions), "fixed": fixed(conditions), "conditions": by_condition(conditions)}
