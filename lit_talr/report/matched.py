"""The general score of each remedy at the same domain score."""

from collections.abc import Iterator, Mapping

import numpy as np

from lit_talr.report.runs import Row
from lit_talr.report.worlds import World, resampled_means

SHARES = (0.5, 0.75, 0.9)
"""The levels: shares of the way from the base model's domain score to the best one of Standard."""
MATCHED = ["variant", "line", "remedy", "source", "share", "level", "best", "reached"]
MATCHED += [*(f"{name}{end}" for name in ("general", "more") for end in ("", "_lower", "_upper")), "resamples"]


def general_at(domain: np.ndarray, general: np.ndarray, level: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """The general score where a line through points first reaches a domain score, straight between two points; and whether it does.

    A line that begins at the level or above has the general score of its first point. One that does not reach it has that of its point with the largest
    domain score.

    Args:
        domain: ``[number of lines, number of points]`` domain scores, from the base model on.
        general: General scores, as ``domain``.
        level: A level for all lines, or ``[number of lines]``.
    """
    above = domain >= np.reshape(level, (-1, 1))
    reached = np.asarray(above.any(axis=1))
    lines = np.arange(len(domain))
    after = np.where(reached, above.argmax(axis=1), domain.argmax(axis=1))
    before = np.where(reached, np.maximum(after - 1, 0), after)
    step = domain[lines, after] - domain[lines, before]
    part = np.divide(level - domain[lines, before], step, out=np.ones(len(lines)), where=step > 0)
    return general[lines, before] + part * (general[lines, after] - general[lines, before]), reached


def matched_rows(world: World) -> Iterator[Row]:
    """A row for each remedy and level: its general score there, and how much more that is than Standard's, with 95 % intervals by bootstrap over items.

    The levels are the ``SHARES`` of the way from the base model's domain score to the best mean over seeds of Standard (of any remedy, where Standard was not
    run). They are taken as given: an interval is that of the general score at this very level. A remedy whose line never reaches a level has no general score
    there. ``best`` is its largest domain score, ``resamples`` the share of resamples in which the line reaches the level; in the others, the interval takes
    its point with the largest domain score.
    """
    lines = world.trajectories()
    domain, general = world.scores("domain")[None], world.scores("general")[None]
    drawn = [resampled_means([point.answers[score] for point in world.points], score) for score in ("domain", "general")]
    goal = lines.get("standard", [index for index, point in enumerate(world.points) if point.row["trained"]])
    if not goal or (way := domain[0, goal].max() - domain[0, 0]) <= 0:
        return
    for share in SHARES:
        level = float(domain[0, 0] + share * way)
        found = {name: general_at(domain[:, line], general[:, line], level) for name, line in lines.items()}
        resampled = (
            {} if drawn[0] is None or drawn[1] is None else {name: general_at(drawn[0][1:, line], drawn[1][1:, line], level) for name, line in lines.items()}
        )
        for name, line in lines.items():
            row: Row = {"variant": world.variant or None, "line": name, "share": share, "level": level}
            row |= {key: world.points[line[1]].row[key] for key in ("remedy", "source")}
            row |= {"best": float(domain[0, line].max()), "reached": bool(found[name][1][0])}
            if row["reached"]:
                row |= compared(name, {key: values for key, (values, _) in found.items()}, {key: values for key, (values, _) in resampled.items()})
            row["resamples"] = float(resampled[name][1].mean()) if resampled else None
            yield row


def compared(name: str, found: Mapping[str, np.ndarray], resampled: Mapping[str, np.ndarray]) -> Row:
    """A remedy's general score, and the difference to Standard's, which is 0 without an interval for Standard itself."""
    row: Row = {"general": float(found[name][0])}
    if resampled:
        row["general_lower"], row["general_upper"] = percentiles(resampled[name])
    if "standard" in found:
        row["more"] = float(found[name][0] - found["standard"][0])
        if resampled and name != "standard":
            row["more_lower"], row["more_upper"] = percentiles(resampled[name] - resampled["standard"])
    return row


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The ends of the middle 95 %."""
    lower, upper = np.percentile(values, [2.5, 97.5])
    return float(lower), float(upper)
